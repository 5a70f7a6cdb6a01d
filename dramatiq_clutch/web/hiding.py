"""Hides what jobs are called with, and what they say of it, from those who see the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

from ..failures import JobFailure
from ..members import Member
from ..status import RunStatus

#: What `app(redact=…)` takes.
Redact: TypeAlias = Callable[[str], str] | bool | None

HIDDEN = "(hidden)"


class Hiding:
    """Hides arguments, texts of exceptions, tracebacks and contexts: all of them, or what a callable makes of each."""

    def __init__(self, redact: Redact) -> None:
        if not (redact is None or isinstance(redact, bool) or callable(redact)):
            raise TypeError(f"redact is {redact!r}; it takes True, or a callable that is given a text and returns one")
        self.everything: bool = redact is True
        self._callable: Callable[[str], str] | None = redact if callable(redact) else None

    def text(self, text: str) -> str:
        """What is shown of a text. Raises what the user's callable raises: nothing is shown then."""
        if not text:
            return text
        if self.everything:
            return HIDDEN
        return str(self._callable(text)) if self._callable else text

    def failure(self, failure: JobFailure) -> JobFailure:
        return dataclasses.replace(
            failure,
            arguments=self.text(failure.arguments),
            exception_text=self.text(failure.exception_text),
            traceback=self.text(failure.traceback),
        )

    def status(self, status: RunStatus) -> RunStatus:
        return dataclasses.replace(
            status,
            failures=tuple(map(self.failure, status.failures)),
            error=self.failure(status.error) if status.error else None,
        )

    def member(self, member: Member) -> Member:
        return dataclasses.replace(
            member,
            arguments=self.text(member.arguments),
            error=self.failure(member.error) if member.error else None,
        )
