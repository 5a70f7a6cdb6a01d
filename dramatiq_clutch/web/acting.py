"""Changes runs on behalf of who presses a button, and tells the log who that was."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dramatiq import Broker
from dramatiq.logging import get_logger
from starlette.types import Scope

from ..run import Run
from ..status import RunStatus
from ..stored.places import Place

logger: logging.Logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verb:
    """A change, as a button says it, and what it means, as the page says before it is made."""

    label: str
    means: str
    do: Callable[[Run], bool]


VERBS: dict[str, Verb] = {
    "cancel": Verb(
        "Cancel",
        "The run comes to rest at once. Jobs that are queued are skipped; those at work finish, and their results are "
        "dropped. A cancelled run can be retried.",
        Run.cancel,
    ),
    "retry": Verb(
        "Retry",
        "Dead members are sent again with fresh retries, and only these; in a cancelled run, all that haven't "
        "succeeded. Callbacks for failures may be sent again.",
        Run.retry,
    ),
    "resend": Verb(
        "Resend",
        "All unsettled members of the present stage are sent again, as if their messages were lost. If one wasn't, its "
        "job may run a second time, but only one success counts.",
        Run.resend,
    ),
    "delete": Verb(
        "Delete",
        "Everything that is kept of the run goes, with the runs nested in it, and can't be brought back.",
        Run.delete,
    ),
}

#: What the page says after a change, by the word in its address.
DONE: dict[str, str] = {
    "cancel": "The run was cancelled.",
    "retry": "Its members are sent again.",
    "resend": "Its unsettled members are sent again.",
    "delete": "The run was deleted.",
    "nothing": "There was nothing to do any more.",
}


def offered(status: RunStatus) -> tuple[tuple[str, Verb], ...]:
    """The changes that there may be something to do for."""
    at_work = status.state in ("running", "failing")
    dead = any(stage.dead for stage in status.stages) and status.state != "succeeded"
    wanted = {
        "cancel": at_work,
        "retry": status.state in ("failed", "cancelled") or dead,
        "resend": at_work,
        "delete": not at_work and Place.of_child(status.run_id) is None,
    }
    return tuple((name, verb) for name, verb in VERBS.items() if wanted[name])


class Actor:
    """Who may change runs, and does."""

    def __init__(self, broker: Broker, actions: Any) -> None:
        if not (isinstance(actions, bool) or callable(actions)):
            raise TypeError(f"actions is {actions!r}; it takes True, or a callable that says whom a request is from")
        if inspect.iscoroutinefunction(actions):
            raise TypeError(f"actions is {actions!r}, a coroutine function; it takes one that says who it is at once")
        self._broker: Broker = broker
        self._actions: Any = actions

    def who(self, scope: Scope) -> str | None:
        """Whom a request is from; None for somebody who may change nothing. Raises TypeError for what is no name: a
        callable that returns something else by mistake must let nobody in."""
        if self._actions is False:
            return None
        if callable(self._actions):
            who = self._actions(scope)
            if who is True or inspect.isawaitable(who):
                raise TypeError(f"actions has returned {who!r}; it has to return a name, or None for a stranger")
            return str(who) if who else None
        user: Any = scope.get("user")
        return "somebody" if user is None else str(getattr(user, "display_name", "") or user)

    def act(self, who: str, verb: str, run_id: str) -> str:
        """Make a change. Returns the word for what the page says then. Raises what the method of the handle raises."""
        try:
            done = VERBS[verb].do(Run(run_id, broker=self._broker))
        except Exception as error:
            logger.warning("By the page, %r wanted to %s run %r, which was refused: %r", who, verb, run_id, error)
            raise
        logger.info("By the page, %r let %s run %r: %s", who, verb, run_id, "done" if done else "nothing to do")
        return verb if done else "nothing"
