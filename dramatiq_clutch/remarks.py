"""What Dramatiq's own log says of the messages of clutches: a warning that isn't true of them is dropped, and the line
of an attempt that failed says to which run it belongs."""

from __future__ import annotations

import logging
from typing import Any

from .job import ATTRIBUTE, Attempt, current_job
from .news import shown
from .stored.places import Tag

#: The loggers of Dramatiq that say something of messages that are processed.
LOGGERS = ("dramatiq.worker.WorkerThread", "dramatiq.results.middleware.Results")

#: How the lines begin that get the run's place beside them. Their first argument is the `MessageProxy`.
FAILED = "Failed to process message"


def listen() -> None:
    """Look at these loggers' records from now on. Doing so twice makes no difference."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_drop_untrue)
        logging.getLogger(name).addFilter(_say_which_run)


def _drop_untrue(record: logging.LogRecord) -> bool:
    """A log filter: drops Dramatiq's warning that a returned value is discarded because there is no Results middleware.
    That isn't true of the value of a clutch's job."""
    return current_job() is None or "returned a value that is not None" not in str(record.msg)


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
