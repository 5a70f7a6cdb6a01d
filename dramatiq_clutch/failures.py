"""Why members fail: what is stored of that, and what a user sees of it."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass, field
from traceback import TracebackException
from typing import Any

from .shortening import beginning_of

#: How many characters are kept, at most: of an exception's text, of its type's name, of its traceback, and of what the
#: job was called with.
MOST_TEXT, MOST_TYPE, MOST_TRACEBACK, MOST_ARGUMENTS = 1_000, 200, 4_000, 200

#: How many frames of each exception are looked at for a traceback, and how much of each argument.
MOST_FRAMES, EACH_ARGUMENT = 30, 60


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a member is failing or dead; for a nested run, the first failure in it. For example,
    ``[f"{failure.actor}: {failure.exception_text}" for failure in run.status().failures]``.

    `actor` and `message_id` are those of the job's message, `exception_type` and `exception_text` what the job has
    raised. `stage` is the stage's index. `index` is the member's index in its stage; None if the run itself has failed,
    because a duty couldn't be done. `attempts` is how many attempts the job has had, and `failed_at` when the last of
    them failed, in UNIX milliseconds; None if that isn't known. `arguments` is what the job was called with, such as
    ``"3, page=2"``, of 200 characters at most. `traceback` has 4,000 characters at most, of the innermost frames; a
    callback gets it of the first ten failures only. `allowed`: the stage allows failures, so this one doesn't keep the
    run from succeeding.
    """

    stage: int
    index: int | None
    actor: str
    message_id: str
    exception_type: str
    exception_text: str
    attempts: int
    arguments: str = ""
    failed_at: int | None = None
    allowed: bool = False
    traceback: str = field(default="", repr=False)


def stored_under(message_id: str, failure: JobFailure) -> bytes:
    """The same failure as it is stored, under the id of this message."""
    return stored(
        actor=failure.actor,
        message_id=message_id,
        type=failure.exception_type,
        text=failure.exception_text,
        attempts=failure.attempts,
        arguments=failure.arguments,
        failed_at=failure.failed_at,
        traceback=failure.traceback,
    )


def failure_details(
    error: BaseException | None,
    *,
    actor: str = "",
    message_id: str = "",
    attempts: int = 0,
    text: str = "",
    arguments: str = "",
    failed_at: int | None = None,
) -> bytes:
    """The details of a failure as they are stored: JSON in ASCII, whatever the exception holds."""
    try:
        text = text or str(error)
    except Exception as broken:  # the __str__ of a user's exception may raise anything
        text = f"(its text can't be read: {type(broken).__name__})"
    return stored(
        actor=actor,
        message_id=message_id,
        type=type(error).__name__[:MOST_TYPE] if error is not None else "Failed",
        text=text[:MOST_TEXT],
        attempts=attempts,
        arguments=arguments[:MOST_ARGUMENTS],
        failed_at=failed_at,
        traceback=traceback_of(error) if error is not None and error.__traceback__ is not None else "",
    )


def stored(*, traceback: str, **details: Any) -> bytes:
    """The details as JSON. The traceback stands last, where a script may cut it off."""
    return json.dumps({**details, **({"traceback": traceback} if traceback else {})}).encode()


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception and of its causes, shortened from its beginning: the innermost frames stay."""
    try:
        parts = list(TracebackException.from_exception(error, limit=-MOST_FRAMES, compact=True).format())
    except Exception as broken:  # a user's exception may hold anything
        return f"(its traceback can't be read: {type(broken).__name__})"
    kept, room = list[str](), MOST_TRACEBACK - 2
    for part in reversed(parts):
        part = part if len(part) <= MOST_TEXT else part[:MOST_TEXT] + "…\n"
        room -= len(part)
        if room < 0:
            kept.append("…\n")
            break
        kept.append(part)
    return "".join(reversed(kept))


def arguments_in(args: Any, kwargs: Any) -> str:
    """What a job is called with, as it would be written in a call, such as ``"3, page=2"``."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = EACH_ARGUMENT
    try:
        given = [short.repr(value) for value in args]
        given += [f"{name}={short.repr(value)}" for name, value in kwargs.items()]
    except Exception as broken:  # a user's encoder may make any objects, whose __repr__ may raise anything
        return f"(they can't be read: {type(broken).__name__})"
    return beginning_of(", ".join(given), MOST_ARGUMENTS)


def failure_from(stage: int, index: int | None, stored: str, allowed: bool = False) -> JobFailure:
    """The failure that stored details describe. Details that can't be read are shown as such and raise nothing, because
    they only inform. Those that an older release has stored lack some."""
    try:
        details = json.loads(stored)
        failed_at = details.get("failed_at")
        return JobFailure(
            stage,
            index,
            str(details["actor"]),
            str(details["message_id"]),
            str(details["type"]),
            str(details["text"]),
            int(details["attempts"]),
            str(details.get("arguments", "")),
            None if failed_at is None else int(failed_at),
            allowed,
            str(details.get("traceback", "")),
        )
    except (AttributeError, ValueError, KeyError, TypeError):
        text = f"details that can't be read: {stored[:100]!r}"
        return JobFailure(stage, index, "", "", "DamagedState", text, 0, allowed=allowed)


def unescaped(text: str) -> str:
    """What stands in JSON between quotes, of which a script has cut it out."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
