"""Tells that a message was aborted by dramatiq-abort, which ends a job for good.

To Dramatiq an aborted job is one that has raised an error, and is attempted again; then its next attempt is skipped,
and a skipped job has succeeded with None. Whoever aborts a job means neither. The package needn't be installed: its
errors are known by where they are defined.
"""

from __future__ import annotations

import sys
from types import TracebackType

PACKAGE = "dramatiq_abort"


class Aborted(Exception):
    """Why a member is dead whose message was aborted before it began."""


def is_abort(error: BaseException | None) -> bool:
    """Whether a job was aborted while it worked."""
    return error is not None and any(_is_theirs(one.__module__) for one in type(error).__mro__)


def skip_is_an_abort() -> bool:
    """Whether the SkipMessage that is being handled was raised by dramatiq-abort: to be asked in `after_skip_message`,
    which a worker calls while it handles that error."""
    frames = sys.exc_info()[2]
    return frames is not None and _is_theirs(str(_last(frames).tb_frame.f_globals.get("__name__")))


def _last(frames: TracebackType) -> TracebackType:
    while frames.tb_next is not None:
        frames = frames.tb_next
    return frames


def _is_theirs(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE
