"""Whether an actor can be called with what a message gives it. This is looked at when the message is added to a clutch,
because a job that can't be called fails only in a worker, and only after all of its retries."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from dramatiq import Actor, Message
from dramatiq.asyncio import async_to_sync

#: The form of a call: how many positional arguments it has, and the names of the others.
Form = tuple[int, tuple[str, ...]]

#: How many forms are remembered of an actor.
MOST_FORMS = 100


@dataclass(frozen=True, slots=True)
class Extra:
    """What an actor gets beside the arguments of its message: the `value`, as the keyword argument `into`, or appended
    to the positional ones. A message with the option `pipe_ignore` doesn't get one that is `ignorable`. `before` is a
    value that is appended before the `value`, if there is one."""

    value: str
    into: str | None = None
    ignorable: bool = False
    before: str = ""

    def __str__(self) -> str:
        shown = f"{self.into}=<{self.value}>" if self.into else f"<{self.value}>"
        return f"<{self.before}>, {shown}" if self.before else shown

    @property
    def appended(self) -> int:
        """How many positional arguments it makes."""
        return (0 if self.into else 1) + (1 if self.before else 0)


def piped(into: str | None = None) -> Extra:
    return Extra("the previous result", into, ignorable=True)


def mapped(into: str | None = None) -> Extra:
    return Extra("an item of the previous result", into)


STATUS = Extra("the run's status, a dict")
RESULT_AND_STATUS = Extra("the run's status, a dict", before="the run's result")


def check_call(actor: Any, message: Message[Any], extra: Extra | None, *, what: str) -> None:
    """Raises TypeError if the actor can't be called with the message's arguments and the `extra` one. `what` says where
    the message was given. Nothing is said of an actor that takes any arguments, or that isn't called by Dramatiq's own
    `Actor`."""
    if type(actor).__call__ is not Actor.__call__:
        return
    forms = _forms_of(actor.fn)
    if forms is None:
        return
    if extra is not None and extra.ignorable and message.options.get("pipe_ignore"):
        extra = None
    count, names = len(message.args), tuple(message.kwargs)
    if extra is not None:
        count += extra.appended
        names = names if extra.into is None else (*names, extra.into)
    form = (count, names)
    if form in forms:  # a million messages may be checked, and they mostly have one form
        return
    signature = inspect.signature(_written(actor.fn), follow_wrapped=False)
    complaint = _complaint(signature, count, names)
    if complaint:
        raise TypeError(
            f"{what} takes no message to {message.actor_name!r} that its actor can't be called with. "
            f"{_shown(actor, signature)} would be called as {_call(message, extra)}: {complaint}. "
            + _way_out(actor, signature, message, extra)
        )
    if len(forms) < MOST_FORMS:
        forms.add(form)


#: The forms of calls that fit a function, by the function. None for a function that is called with anything.
_forms: WeakKeyDictionary[Callable[..., Any], set[Form] | None] = WeakKeyDictionary()


def _forms_of(function: Callable[..., Any]) -> set[Form] | None:
    try:
        return _forms[function]
    except KeyError:
        return _forms.setdefault(function, set() if _is_known(function) else None)
    except TypeError:  # something callable that can't be hashed, or allows no weak reference
        return None


def _is_known(function: Callable[..., Any]) -> bool:
    """Whether it is known which arguments a function takes, and that it doesn't take any."""
    try:
        # What a decorator wraps isn't looked at, because a decorator may add arguments, or take some away.
        parameters = inspect.signature(_written(function), follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return False
    return not any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters)


async def _nothing() -> None: ...


#: The code of the wrapper that Dramatiq puts around a coroutine function, and passes all arguments through.
_ASYNC: Any = getattr(async_to_sync(_nothing), "__code__", None)


def _written(function: Any) -> Any:
    """The function as it was written: a coroutine function is unwrapped."""
    is_async = _ASYNC is not None and getattr(function, "__code__", None) is _ASYNC
    return function.__wrapped__ if is_async else function


def _complaint(signature: inspect.Signature, count: int, names: Iterable[str]) -> str:
    """What Python would say of such a call, or an empty text if it fits."""
    try:
        signature.bind(*range(count), **dict.fromkeys(names))
    except TypeError as error:
        return str(error)
    return ""


def _way_out(actor: Any, signature: inspect.Signature, message: Message[Any], extra: Extra | None) -> str:
    """What to write instead."""
    count, names, name = len(message.args), tuple(message.kwargs), actor.actor_name
    if extra is STATUS:
        first = "" if signature.parameters else f", as in def {name}(status)"
        return f"A callback gets the run's status as its last argument: give the actor a parameter for it{first}"
    if extra is RESULT_AND_STATUS:
        return "With with_result() a callback gets the run's result and status as its last two arguments"
    if extra is not None and not _complaint(signature, count, names):
        option = ("into" if extra.into else "") if not extra.ignorable else "pipe"
        instead = f"leave out {option}=, or " if option == "pipe" else "give it with parallel() or then(), or "
        return f"It fits without {extra}: {instead}give the actor a parameter for it"
    if extra is None and not _complaint(signature, count + 1, names):
        return (
            f"Write {name}.message(...) or functools.partial({name}, ...) with all arguments; or, if the previous "
            "result is to be the last one, pipe=True"
        )
    rest = f", but for {extra}, which comes by itself" if extra is not None else ""
    return f"Write {name}.message(...) or functools.partial({name}, ...) with arguments that fit{rest}"


def _call(message: Message[Any], extra: Extra | None) -> str:
    def arguments() -> Iterator[str]:
        for value in message.args[:10]:
            yield reprlib.repr(value)
        if len(message.args) > 10:
            yield "..."
        if extra is not None and extra.into is None:
            yield str(extra)
        for name, value in message.kwargs.items():
            yield f"{name}={reprlib.repr(value)}"
        if extra is not None and extra.into is not None:
            yield str(extra)

    return f"{message.actor_name}({', '.join(arguments())})"


def _shown(actor: Any, signature: inspect.Signature) -> str:
    """The signature without annotations, which may be long."""
    bare = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return f"{actor.actor_name}{inspect.Signature(bare)}"
