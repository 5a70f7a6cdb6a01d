"""The numbers that Lua and Python share. `scripts` puts each in the place of its name."""

from __future__ import annotations

from ...backend import LAST
from ...status import MOST_FAILURES, MOST_TRACEBACKS
from ...stored.entries import LABEL
from ...stored.formats import ERA, SPAN
from ...stored.places import GENERATION_DIGITS

#: How long the rows of a plan live after the last of them was written, in milliseconds, unless they are sealed.
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
    # The attempt under which it is recorded that a nested run is gone. It is higher than any revision that the run can
    # have told, so `dead` is the last word until the next epoch.
    "LAST": LAST,
    # How many failures a status shows.
    "MOST_FAILURES": MOST_FAILURES,
    # How many of the failures that a callback gets have their tracebacks.
    "MOST_TRACEBACKS": MOST_TRACEBACKS,
    # How many nested runs a status looks into.
    "MOST_LOOKED_INTO": 100,
    # How many members' rows come along with the duty to send them, at most; and of how many bytes a row of the next
    # stage or a result of the stage before may be to come along, too.
    "FEW": 10,
    "LITTLE": 10_000,
    # How many characters of the generations that have had an id before are kept: those of eight.
    "MOST_PAST": 8 * (GENERATION_DIGITS + 1),
    # How many members one script works on, at most.
    "MANY": 1_000,
    # How many digits a label of the register has, and how many runs that have ended leave it in one call, at most.
    "LABEL": LABEL,
    "STEP": 100,
    # How many fields of a head are written in one call, at most.
    "FIELDS": 2_000,
    # These are in milliseconds.
    "DRAFT_TTL": DRAFT_TTL,
    "A_DAY": 86_400_000,
}
