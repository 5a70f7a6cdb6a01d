"""The names of owners, under which callers ask for duties. They are only compared, and never parsed.

owner = STAGE "." MEMBER [ " " EPOCH " " ATTEMPT ]
                                                an attempt of a job, for the duties that its record causes; the first
                                                attempt in the first epoch may also own a share of its stage's release
                                                                                          0.3, 0.3 0 2
      / "run:" UUID / "cancel:" UUID / ...      a call of that name                       retry:1b4e28ba-...
      / "start " EPOCH / "revive " EPOCH        a parent that starts a run, or revives it
      / "halt " EPOCH                           a parent that is cancelled                halt 2
      / "told " STAGE "." MEMBER " " REVISION   a nested run that tells its parent        told 0.1 5
      / "gone " STAGE "." MEMBER                a process that tells a parent that its nested run is gone
      / "sweeper"                               a sweeper
      / "touch" / "heard"                       a caller that takes no duties
      / ""                                      nobody: the duty is a share for anybody
"""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

#: The owner as which sweepers ask for duties. Shares for anybody are given to sweepers only.
SWEEPER = "sweeper"

#: The owners of calls that take no duties: they only keep a run alive, or say that a callback has ended.
TOUCH, HEARD = "touch", "heard"


def job(stage: int, member: int, epoch: int = 0, attempt: int = 0) -> str:
    """One attempt, in one epoch, of the job that is this member of this stage."""
    place = f"{stage}.{member}"
    return f"{place} {epoch} {attempt}" if epoch or attempt else place


def call(verb: str) -> str:
    """One call of `run`, `cancel`, `retry`, `resend` or `delete`."""
    return f"{verb}:{uuid4()}"


def parent(verb: Literal["start", "revive", "halt"], epoch: int) -> str:
    """A parent that starts, revives or cancels a nested run. The epoch is the parent's."""
    return f"{verb} {epoch}"


def child(stage: int, member: int, revision: int) -> str:
    """The nested run at this place, for the duties that it causes by what it tells with this revision."""
    return f"told {stage}.{member} {revision}"


def gone(stage: int, member: int) -> str:
    """A process that tells the parent that the nested run at this place is gone."""
    return f"gone {stage}.{member}"
