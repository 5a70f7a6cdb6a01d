"""The numbers that the scripts and what reads their keys have in common. They are put into the scripts by name."""

from __future__ import annotations

from ...backend import LAST
from ...status import MOST_FAILURES
from ...stored.formats import ERA, SPAN

#: How long the rows of a plan that is being written live, in milliseconds, unless they are sealed.
DRAFT_TTL = 300_000

CONSTANTS: dict[str, int] = {
    # The kinds of members. The score of a member in `standing` is ERA * era + SPAN * kind + index. In `dead` it is
    # SPAN * revival + index.
    "WORKING": 0,
    "ATTEMPTED": 1,
    "FAILING": 2,
    "DEAD": 3,
    "SPAN": SPAN,
    "ERA": ERA,
    # The attempt of a run that is gone: whatever it has told, it is dead until the next epoch.
    "LAST": LAST,
    # How many failures a status shows.
    "MOST_FAILURES": MOST_FAILURES,
    # So many members come along with the duty to send them, and a result of so many bytes before them.
    "FEW": 10,
    "LITTLE": 10_000,
    # No step works on more members than that.
    "MANY": 1_000,
    # In milliseconds. The rows of a plan that is being written live so long, unless they are sealed.
    "DRAFT_TTL": DRAFT_TTL,
    "A_DAY": 86_400_000,
}
