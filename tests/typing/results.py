"""The type of a clutch's result, as a type checker sees it: what of it flows, and what is refused. Checked by mypy and
by pyright, and never run. An ignored error must be one, for either of them."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: F841  # names are there for their types

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import dramatiq
from dramatiq import Message, group, pipeline
from typing_extensions import assert_type

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.testing import run_to_end


@dramatiq.actor
def count(text: str) -> int:
    return len(text)


@dramatiq.actor(queue_name="slow")
def total(numbers: list[int]) -> float:
    return sum(numbers)


@dramatiq.actor
async def fetch(number: int) -> str:
    return str(number)


@dramatiq.actor
def split(text: str) -> list[str]:
    return text.split()


@dramatiq.actor
def anything(text: str) -> Any: ...


@dramatiq.actor
def delegate(text: str) -> Run[str]:
    return Clutch().then(fetch.message(1)).nest()


@dramatiq.actor
def delegate_bare(text: str) -> Run:
    return Clutch().then(fetch.message(1)).nest()


@dramatiq.actor
def delegate_several(text: str) -> list[Run[str]]:
    return [Clutch().then(fetch.message(1)).nest()]


@dramatiq.actor
def delegate_at_times(text: str) -> Run[str] | str:
    return Clutch().then(fetch.message(1)).nest() if text else text


@dramatiq.actor
def delegate_or_not(text: str) -> Run[str] | None:
    return Clutch().then(fetch.message(1)).nest() if text else None


class ClassBased(dramatiq.GenericActor):
    def perform(self) -> int:
        return 1


def a_stage_of_one() -> None:
    assert_type(Clutch(), Clutch[Any])
    assert_type(Clutch().then(count), Clutch[int])
    assert_type(Clutch().then(count.message("a")), Clutch[int])
    assert_type(Clutch().then(partial(count, "a")), Clutch[int])
    assert_type(Clutch().then(fetch), Clutch[str])
    assert_type(Clutch().then(total, pipe=True, name="total", deadline=1_000), Clutch[float])
    assert_type(Clutch().then(anything), Clutch[Any])
    assert_type(Clutch().then(split), Clutch[list[str]])
    assert_type(Clutch().then(split).then(count), Clutch[int])
    assert_type(Clutch().then(split).wait(1_000), Clutch[list[str]])
    assert_type(Clutch().then(Clutch().then(split).then(count)), Clutch[int])
    assert_type(Clutch().then(ClassBased), Clutch[Any])
    assert_type(Clutch().then(pipeline([count.message("a")])), Clutch[Any])
    assert_type(Clutch().then(count, split), Clutch[Any])


def a_stage_of_many(texts: Iterator[str]) -> None:
    assert_type(Clutch().parallel(count, count.message("a"), partial(count, "a")), Clutch[list[int]])
    assert_type(Clutch().parallel(count.message(text) for text in texts), Clutch[list[int]])
    assert_type(Clutch().parallel([fetch.message(1), fetch.message(2)], limit=1), Clutch[list[str]])
    assert_type(Clutch().parallel(messages), Clutch[list[int]])
    assert_type(Clutch().parallel(lambda: (count.message(text) for text in "ab")), Clutch[list[int]])
    assert_type(Clutch().parallel(count, Clutch().then(split).then(count)), Clutch[list[int]])
    assert_type(Clutch().parallel(split), Clutch[list[list[str]]])
    assert_type(Clutch().parallel(ClassBased, group([count.message("a")])), Clutch[list[Any]])
    assert_type(Clutch().parallel([]), Clutch[list[Any]])
    assert_type(Clutch().then(split).map(count), Clutch[list[int]])
    assert_type(Clutch().then(split).map(count, into="text", limit=3), Clutch[list[int]])
    assert_type(Clutch().then(split).map(Clutch().map(count)), Clutch[list[list[int]]])


def not_all_succeed() -> None:
    assert_type(Clutch().parallel(count, allow_failures=True), Clutch[list[int | None]])
    assert_type(Clutch().parallel(count, allow_failures=0.1), Clutch[list[int | None]])
    assert_type(Clutch().parallel([count], enough=1, pipe=True), Clutch[list[int | None]])
    assert_type(Clutch().parallel(count, allow_failures=False, enough=None), Clutch[list[int]])
    assert_type(Clutch().then(split).map(count, allow_failures=3), Clutch[list[int | None]])
    assert_type(Clutch().then(split).map(count, enough=3), Clutch[list[int | None]])


def handles() -> None:
    assert_type(Clutch().then(delegate), Clutch[str])
    assert_type(Clutch().then(delegate.message("a")), Clutch[str])
    assert_type(Clutch().then(partial(delegate, "a")), Clutch[str])
    assert_type(Clutch().then(delegate_bare), Clutch[Any])
    assert_type(Clutch().then(delegate_several), Clutch[list[str]])
    assert_type(Clutch().then(delegate_at_times), Clutch[str])
    assert_type(Clutch().then(delegate_or_not), Clutch[str | None])
    assert_type(Clutch().then(delegate_several.message("a")), Clutch[list[str]])
    assert_type(Clutch().then(partial(delegate_several, "a")), Clutch[list[str]])
    assert_type(Clutch().then(delegate_at_times.message("a")), Clutch[str])
    assert_type(Clutch().then(delegate_or_not.message("a")), Clutch[str | None])
    assert_type(Clutch().then(partial(delegate_or_not, "a")), Clutch[str | None])
    assert_type(Clutch().parallel(delegate, delegate.message("a")), Clutch[list[str]])
    assert_type(Clutch().parallel([delegate], enough=1), Clutch[list[str | None]])
    assert_type(Clutch().parallel(delegate_several), Clutch[list[Any]])
    assert_type(Clutch().then(split).map(delegate), Clutch[list[str]])
    assert_type(Clutch().then(split).map(delegate_at_times, allow_failures=True), Clutch[list[str | None]])


async def the_result(clutch: Clutch[int], bare: Clutch, run: Run) -> None:
    assert_type(clutch.run(), Run[int])
    assert_type(await clutch.run_async(run_id="mine"), Run[int])
    assert_type(clutch.nest(), Run[int])
    assert_type(clutch.run().get_result(block=True), int)
    assert_type(await clutch.run().get_result_async(), int)
    assert_type(run_to_end(clutch), int)
    assert_type(run_to_end(clutch.run()), int)
    assert_type(bare.run(), Run[Any])
    assert_type(bare.run().get_result(), Any)
    assert_type(run.get_result(), Any)
    assert_type(Run[int]("mine").get_result(), int)
    takes_floats(clutch.run())
    takes_floats(Clutch().then(anything).run())
    assert_type(Clutch[int](name="empty"), Clutch[int])


def what_is_built_in_several_statements() -> None:
    clutch = Clutch()
    for _ in range(3):
        clutch = clutch.then(count)
    takes_floats(clutch.run())
    clutch = clutch.then(fetch)
    takes_floats(clutch.run())  # pyright: ignore[reportArgumentType]  # it follows what is assigned; mypy doesn't


def what_is_refused(clutch: Clutch[int]) -> Clutch[str]:
    first: Clutch[str] = clutch  # type: ignore[assignment]
    second: Clutch[str] = Clutch().then(count)  # type: ignore[arg-type]
    third: Clutch[list[str]] = Clutch().parallel(count, count)  # type: ignore[assignment]
    fourth: Clutch[list[str]] = Clutch().then(split).map(count)  # type: ignore[arg-type]
    fifth: Clutch[list[int]] = Clutch().parallel(count, allow_failures=True)  # type: ignore[assignment]
    sixth: str = Clutch().then(count).run().get_result()  # type: ignore[assignment]
    seventh: list[int] = Clutch().parallel(count, enough=1).run().get_result()  # type: ignore[assignment]
    eighth: Clutch[int] = Clutch().then(delegate)  # type: ignore[arg-type]
    ninth: Clutch[list[str]] = Clutch().parallel([count])  # type: ignore[assignment]
    tenth: list[str] = Clutch().parallel(count, fetch).run().get_result()  # type: ignore[assignment]
    Clutch().then(count).run().get_result().upper()  # type: ignore[attr-defined]
    Clutch().parallel(count, nowhere=1)  # type: ignore[call-overload]
    return clutch  # type: ignore[return-value]


def takes_floats(run: Run[float]) -> None: ...


def messages() -> list[Message[int]]:
    return [count.message("a")]
