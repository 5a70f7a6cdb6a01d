"""The verbs that change runs: `cancel`, `retry`, `resend` and `delete`; each takes ids or filters."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dramatiq_clutch.terminal import coloured, safe

from .completing import ids
from .looking import filter_options, stage_of
from .target import Code, Refusal, Target, target_options
from .text import at_a_terminal, named, say, say_json, tell, when

if TYPE_CHECKING:
    from dramatiq_clutch import Run, RunSelection

Function = TypeVar("Function", bound=Callable[..., Any])

#: How many runs are counted before the question is asked, at most.
MOST_COUNTED = 10_000


@dataclass(frozen=True)
class Verb:
    """What a verb does to a run, and how that is called. `asks` says that it asks also for runs that are named."""

    name: str
    done: str
    method: str
    asks: bool = False


def steering_options(function: Function) -> Function:
    for add in reversed(
        (
            click.argument("run_ids", metavar="[RUN]...", nargs=-1, callback=named, shell_complete=ids),
            click.option(
                "--before", callback=when, metavar="WHEN", help="Only runs begun before: 15m, 2h, 7d, or a time."
            ),
            click.option("--all", "everything", is_flag=True, help="All runs."),
            click.option("--yes", "-y", is_flag=True, help="Ask nothing."),
        )
    ):
        function = add(function)
    return filter_options(function)


@click.command("cancel")
@target_options()
@steering_options
@click.pass_obj
def cancel_verb(target: Target, /, **said: Any) -> None:
    """Bring runs to rest at once. Jobs at work finish, and their results are dropped.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks cancel nightly-2026-11-28
      dramatiq-clutch -b myapp.tasks cancel --name import --state failing
    """
    steer(target, Verb("cancel", "cancelled", "cancel"), **said)


@click.command("retry")
@target_options()
@steering_options
@click.option("--from-stage", metavar="STAGE", help="Do this stage, an index or a name, and all after it again.")
@click.pass_obj
def retry_verb(target: Target, /, from_stage: str | None, **said: Any) -> None:
    """Send dead members again, with fresh retries.

    Of a cancelled run, all members that haven't succeeded are sent.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks retry nightly-2026-11-28
      dramatiq-clutch -b myapp.tasks retry --state failed --since 1d
    """
    more = {} if from_stage is None else {"from_stage": stage_of(from_stage)}
    steer(target, Verb("retry", "retried", "retry"), more, **said)


@click.command("resend")
@target_options()
@steering_options
@click.pass_obj
def resend_verb(target: Target, /, **said: Any) -> None:
    """Send members again whose messages were lost: all that aren't settled.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks resend --state stalled
    """
    steer(target, Verb("resend", "sent again", "resend"), **said)


@click.command("delete")
@target_options()
@steering_options
@click.pass_obj
def delete_verb(target: Target, /, **said: Any) -> None:
    """Delete what is kept of runs at rest, and free their ids. It asks first, also for one run.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks delete --state cancelled --before 30d
    """
    steer(target, Verb("delete", "deleted", "delete", asks=True), **said)


def steer(
    target: Target,
    verb: Verb,
    more: Mapping[str, Any] | None = None,
    *,
    run_ids: tuple[str, ...],
    yes: bool,
    everything: bool,
    **filters: Any,
) -> None:
    """Do what a verb says to the runs that are named, or that the filters select; each in turn, one error stopping no
    other. Ends the command with REFUSED if there was one."""
    chosen = {name: value for name, value in filters.items() if value is not None}
    if bool(run_ids) + bool(chosen) + everything != 1:
        raise Refusal(
            f"{verb.name} takes the ids of runs, or filters such as --state, or --all for all runs", Code.USAGE
        )
    outcomes = _named(target, verb, more or {}, run_ids, yes) if run_ids else None
    if outcomes is None:
        outcomes = _selected(target, verb, more or {}, chosen, everything, yes)
    _print(target, verb, outcomes)


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    run_id: str
    done: bool
    error: Exception | None
    cursor: str | None = None


def _named(
    target: Target, verb: Verb, more: Mapping[str, Any], run_ids: tuple[str, ...], yes: bool
) -> Iterator[Outcome]:
    from dramatiq_clutch import Run

    handles = [Run(run_id, broker=target.broker) for run_id in dict.fromkeys(run_ids)]
    if verb.asks:
        shown = safe(handles[0].run_id) if len(handles) == 1 else f"{len(handles)} runs"
        ask(f"{verb.name.capitalize()} {shown}?", yes)
    return (_outcome(verb, more, handle) for handle in handles)


def _outcome(verb: Verb, more: Mapping[str, Any], handle: Run) -> Outcome:
    from dramatiq_clutch import ClutchError, StateUnavailable

    try:
        return Outcome(handle.run_id, getattr(handle, verb.method)(**more), None)
    except StateUnavailable:
        raise
    except (ClutchError, ValueError) as error:
        return Outcome(handle.run_id, False, error)


def _selected(
    target: Target, verb: Verb, more: Mapping[str, Any], chosen: Mapping[str, Any], everything: bool, yes: bool
) -> Iterator[Outcome]:
    from dramatiq_clutch import select_runs

    found: RunSelection = select_runs(broker=target.broker, everything=everything, **chosen)
    if not yes:
        count = found.count(up_to=MOST_COUNTED)
        if not count:
            tell(f"No such runs of {target.whose}.")
            return iter(())
        least = "at least " if count == MOST_COUNTED else ""
        which = ", ".join(f"{name} {safe(value)}" for name, value in chosen.items()) or "all"
        ask(f"{verb.name.capitalize()} {least}{count:,} {'run' if count == 1 else 'runs'} ({which})?", yes)
    passing = getattr(found, verb.method)(**more)
    return (Outcome(one.run_id, one.done, one.error, one.cursor) for one in passing)


def ask(question: str, yes: bool) -> None:
    """Ask, unless the answer is given. Raises Refusal if it is no, or nobody can be asked."""
    if yes:
        return
    if not can_ask():
        raise Refusal(f"{question} There is no terminal to ask at: say --yes", Code.USAGE)
    if not click.confirm(question, err=True):
        raise Refusal("Nothing was done.")


def can_ask() -> bool:
    """Whether somebody sits at the terminal."""
    return at_a_terminal(sys.stdin)


def _print(target: Target, verb: Verb, outcomes: Iterable[Outcome]) -> None:
    from .command import refusal_for

    counts, codes = Counter[str](), set[int]()
    for one in outcomes:
        word = "error" if one.error is not None else "done" if one.done else "nothing"
        counts[word] += 1
        if one.error is not None:
            codes.add(refusal_for(one.error).exit_code)
        if target.json:
            error = None if one.error is None else {"type": type(one.error).__name__, "text": str(one.error)}
            shown = {"run_id": one.run_id, "done": one.done, "error": error, "cursor": one.cursor}
            say_json(shown, indent=None)
        elif one.error is not None:
            tell(f"{safe(one.run_id)}  {coloured('error', safe(one.error))}")
        else:
            say(f"{safe(one.run_id)}  {verb.done if one.done else 'nothing to do'}")
    if counts.total() > 1 and not target.json:
        parts = [f"{counts['done']:,} {verb.done}"]
        parts += [f"{counts['nothing']:,} with nothing to do"] if counts["nothing"] else []
        parts += [f"{counts['error']:,} with an error"] if counts["error"] else []
        tell(", ".join(parts) + ".")
    if counts["done"] and target.is_detached and verb.name != "delete":
        tell("What is to be sent is left to the workers: they hear of it at once, or when one comes.")
    if codes:
        sys.exit(max(codes) if len(codes) == 1 else Code.REFUSED)
