"""What Dramatiq's own log says of the messages of clutches: a warning that isn't true of them is dropped, and the line
of an attempt that failed says to which run it belongs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .job import ATTRIBUTE, Attempt, current_job
from .news import shown
from .stored.places import Tag

#: The loggers of Dramatiq that say something of messages that are processed.
LOGGERS = ("dramatiq.worker.WorkerThread", "dramatiq.results.middleware.Results")

#: How the lines begin that get the run's place beside them. Their first argument is the `MessageProxy`.
FAILED = "Failed to process message"


#: What the warning says that isn't true of a clutch's job: that its value is discarded, for want of Results.
UNTRUE = "returned a value that is not None"


def listen() -> None:
    """Look at what these loggers are given from now on. Doing so twice makes no difference."""
    for name in LOGGERS:
        logger: Any = logging.getLogger(name)
        logger.addFilter(_say_which_run)
        if "warning" not in vars(logger):
            logger.warning = _true_warning(logger)


def _true_warning(logger: logging.Logger) -> Callable[..., None]:
    """A logger's method `warning` that drops what isn't true of a clutch's job. A log filter could do that, too. But it
    would come when the record is made, which takes a fifteenth of what a worker does for a small job."""

    def warning(message: object, *args: Any, stacklevel: int = 1, **more: Any) -> None:
        if UNTRUE not in str(message) or current_job() is None:
            method: Any = type(logger).warning  # looked up each time, for somebody else may put another one there
            bound = method.__get__(logger) if hasattr(method, "__get__") else method
            bound(message, *args, stacklevel=stacklevel + 1, **more)

    return warning


def _say_which_run(record: logging.LogRecord) -> bool:
    """A log filter that drops nothing: it adds the run, and the place in it, to the line of an attempt that failed. The
    record also gets the attributes `run_id`, `stage` and `member`, for loggers that write JSON."""
    about: Any = record
    if isinstance(record.args, tuple) and record.args and str(record.msg).startswith(FAILED):
        attempt: Attempt | None = getattr(record.args[0], "__dict__", {}).get(ATTRIBUTE)
        tag = attempt.tag if attempt is not None else None
        if isinstance(tag, Tag):
            record.msg = f"{record.msg} [run %s, stage %d, member %d]"
            record.args = (*record.args, shown(tag.run_id), tag.stage, tag.member)
            about.run_id, about.stage, about.member = tag.run_id, tag.stage, tag.member
        elif tag is not None:
            record.msg = f"{record.msg} [run %s, callback %s]"
            record.args = (*record.args, shown(tag.run_id), shown(tag.duty))
            about.run_id = tag.run_id
    return True
