"""The log of runs: one line for each transition of a run, and one for each member that is dead.

The lines go to the logger ``dramatiq_clutch.runs``. ``logging.getLogger("dramatiq_clutch.runs").setLevel("WARNING")``
leaves only those for dead members. There is none for a job that succeeds, or that will be attempted again.

| event | level | says that |
|---|---|---|
| `started` | INFO | the run was stored, and its first stage is sent |
| `released` | INFO | a stage is complete, and the next one is sent |
| `failing` | INFO | all members of a stage have had an attempt, and one is failing or dead: once for a stage |
| `failed`, `succeeded`, `cancelled` | INFO | the run has come to rest |
| `healed` | INFO | a member of a failed run works again, or has succeeded after all |
| `retried`, `resent` | INFO | somebody has called `retry()` or `resend()` |
| `rewound` | INFO | somebody has called `retry(from_stage=…)`: this stage and all after it are done again |
| `dead` | WARNING | no more attempts of a member will come by themselves |

For example:

    Run nightly-7 'nightly' released stage 1 'load' of 3: 40 of 40 succeeded before it, 0 dead, 12.3 s after its start
    Run nightly-7 'nightly': member 3 of stage 1 'load' of 3 is dead: actor 'fetch', attempts 4, ValueError: 'no page'

Stages and members are counted from 0, as in a status. A nested run has lines of its own; its id has a ``~``. Each line
is written once, by the process whose call has caused the transition: a worker, or whoever has called a method of `Run`.
If the reply of that call is lost, its lines may be, too, or may come twice.

Names and whatever comes from a job are quoted and shortened, and have no line breaks or other control characters. For
loggers that write JSON, each record has attributes that hold them as they are: `run_id`, `run_name` (or None), `event`,
`stage`, `stage_name` (or None), `stages` and `seconds` (since the run began). A line for a dead member also has
`member`, `actor`, `attempts`, `exception_type` and `exception_text`; any other has `succeeded`, `dead` and `total`
(None if it isn't known yet), which are numbers of members of the stage; where a stage is `released`, those of the stage
before it. Where a run has failed of an error of its own, such as a deadline, its line ends with that, and the record
has `exception_type` and `exception_text`, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import DamagedState
from .failures import failure_from
from .shortening import beginning_of
from .stored.plan import StageLine

#: The logger of all these lines.
logger: logging.Logger = logging.getLogger("dramatiq_clutch.runs")

#: How many characters of a name or of an exception's text are shown.
MOST_SHOWN = 200

LINE = "Run %s %s: stage %s, %d of %s succeeded, %d dead, %.1f s after its start"
RELEASED = "Run %s %s stage %s: %d of %s succeeded before it, %d dead, %.1f s after its start"
BECAUSE = ", because of %s: %s"
DEAD = "Run %s: member %d of stage %s is dead: actor %s, attempts %d, %s: %s"


@dataclass(frozen=True, slots=True)
class News:
    """What a transition has done to its run, for the log.

    `event`: see the module's docstring; any other word gets a line, too. `name`: the run's, or `''`. `created`: when it
    began, in UNIX milliseconds. `stages`: how many there are. `stage`: the one that `line` (see `plan.StageLine`),
    `succeeded` and `dead` are of; where the next one is released, it is the one before that. `member` and `failure`
    (`failures.failure_details`): of a member that is dead; where the run fails of an error of its own, `failure` is
    that one. `released`: the line of a stage that is released.
    """

    event: str
    name: str = ""
    created: int = 0
    stages: int = 0
    stage: int = 0
    line: str = ""
    succeeded: int = 0
    dead: int = 0
    member: int | None = None
    failure: str = ""
    released: str = ""


def log(run_id: str, news: Sequence[News], now: int) -> None:
    """Log what a transition at the time `now` (UNIX milliseconds) has done to this run."""
    for one in news:
        if one.event == "dead":
            if logger.isEnabledFor(logging.WARNING):
                _log_death(run_id, one, now)
        elif logger.isEnabledFor(logging.INFO):
            _log_transition(run_id, one, now)


def _log_transition(run_id: str, news: News, now: int) -> None:
    released = news.event == "released"
    line = news.released if released else news.line
    about = _about(run_id, news, now, news.stage + released, line)
    about |= {"succeeded": news.succeeded, "dead": news.dead, "total": _total(news.line)}
    text, reason = (RELEASED if released else LINE), tuple[str, ...]()
    if news.failure:
        failure = failure_from(news.stage, None, news.failure)
        about |= {"exception_type": failure.exception_type, "exception_text": failure.exception_text}
        text, reason = text + BECAUSE, (shown(failure.exception_type), quoted(failure.exception_text))
    values = (
        _shown_run(run_id, news),
        shown(news.event),
        _shown_stage(about),
        news.succeeded,
        "?" if about["total"] is None else about["total"],
        news.dead,
        about["seconds"],
        *reason,
    )
    # As `logger.info` does it, which first looks through the stack for who has called it. The next job waits for this.
    here = __file__, _log_transition.__code__.co_firstlineno
    logger.handle(logger.makeRecord(logger.name, logging.INFO, *here, text, values, None, "_log_transition", about))


def _log_death(run_id: str, news: News, now: int) -> None:
    failure = failure_from(news.stage, news.member, news.failure)
    about = _about(run_id, news, now, news.stage, news.line)
    about |= {"member": news.member, "actor": failure.actor, "attempts": failure.attempts}
    about |= {"exception_type": failure.exception_type, "exception_text": failure.exception_text}
    logger.warning(
        DEAD,
        _shown_run(run_id, news),
        news.member,
        _shown_stage(about),
        quoted(failure.actor),
        failure.attempts,
        shown(failure.exception_type),
        quoted(failure.exception_text),
        extra=about,
    )


def _about(run_id: str, news: News, now: int, stage: int, line: str) -> dict[str, Any]:
    """The attributes that every record has. The clocks of two processes may differ, and nothing is before a start."""
    return {
        "run_id": run_id,
        "run_name": news.name or None,
        "event": news.event,
        "stage": stage,
        "stage_name": stage_name(line),
        "stages": news.stages,
        "seconds": max(now - news.created, 0) / 1000,
    }


def _shown_run(run_id: str, news: News) -> str:
    return f"{shown(run_id)} {quoted(news.name)}" if news.name else shown(run_id)


def _shown_stage(about: dict[str, Any]) -> str:
    name = about["stage_name"]
    return f"{about['stage']}{f' {quoted(name)}' if name else ''} of {about['stages']}"


def _total(line: str) -> int | None:
    """How many members the stage has; None if that isn't known. A line that can't be read is no reason to raise here:
    whoever works with it will."""
    total = [*line.split(" "), "", ""][1]
    return int(total) if total.isdecimal() else None if line else 0


def stage_name(line: str) -> str | None:
    """The name of a stage, if it has one; None, too, for a line that can't be read, as for `_total`."""
    if " name=" not in line:  # few stages have one, and reading the whole line takes longer
        return None
    try:
        return StageLine.parse(line).name
    except DamagedState:
        return None


def shown(text: str) -> str:
    """A text that is seldom anything but plain: as it is, or else quoted."""
    return text if text.isprintable() and len(text) <= MOST_SHOWN else quoted(text)


def quoted(text: str) -> str:
    """A text in quotes, shortened. Control characters, line breaks of all kinds and lone surrogates are escaped."""
    return repr(beginning_of(text, MOST_SHOWN))
