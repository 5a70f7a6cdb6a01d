"""Whose a duty is: the names under which callers ask for duties. They are compared, and never taken apart.

owner = STAGE "." MEMBER [ " " EPOCH " " ATTEMPT ]
                                                an attempt of a job, for what its record causes; the first one in
                                                the first epoch also owns a share of its stage    0.3, 0.3 0 2
      / "run:" UUID / "cancel:" UUID / ...      a call of that name                       retry:1b4e28ba-...
      / "start " EPOCH / "revive " EPOCH        a parent that starts a run, or revives it
      / "halt " EPOCH                           a parent that is cancelled                halt 2
      / "told " STAGE "." MEMBER " " REVISION   a nested run that tells its parent        told 0.1 5
      / "gone " STAGE "." MEMBER                whoever tells that such a run is gone
      / "sweeper" / "touch" / "heard" / ""      a sweeper; who takes no duties; nobody: what is for anybody
"""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

#: The owner as whom sweepers ask for duties. What is for anybody is given to no one else.
SWEEPER = "sweeper"

#: Those who take no duties: they only keep a run, or tell that a callback has ended.
TOUCH, HEARD = "touch", "heard"


def job(stage: int, member: int, epoch: int = 0, attempt: int = 0) -> str:
    """This attempt, in this epoch, of the job that stands there."""
    place = f"{stage}.{member}"
    return f"{place} {epoch} {attempt}" if epoch or attempt else place


def call(verb: str) -> str:
    """One call of `run`, `cancel`, `retry` or `resend`."""
    return f"{verb}:{uuid4()}"


def parent(verb: Literal["start", "revive", "halt"], epoch: int) -> str:
    """A parent that does this to a nested run, in an epoch of its own."""
    return f"{verb} {epoch}"


def child(stage: int, member: int, revision: int) -> str:
    """The nested run that stands there, for what its word of this revision causes."""
    return f"told {stage}.{member} {revision}"


def gone(stage: int, member: int) -> str:
    """Whoever tells the parent that the nested run that stood there is gone."""
    return f"gone {stage}.{member}"
