"""The contract of a state store: each method of `transitions.py` is one atomic transition of one run.

Every method takes the time (`now`, in UNIX milliseconds) from its caller. Every method can be applied twice without
harm, because a client may repeat a call whose reply was lost. Every method raises `StateUnavailable` for an error that
isn't known to be final. Final errors are those that a method's docstring names, and `PayloadRefused` for a payload that
the store will never take.

Most transitions return a `Reply` or a word. The words are quoted in the docstrings, and `backends/README.md` has them
all, with a table of what each call does in each state of a run.
"""

from .hints import SWEEP, Listener
from .store import ClutchBackend
from .values import LAST, SHARE, Caller, Ending, GuardWord, Note, Occupant, Record, RecordWord, Reply

__all__ = [
    "LAST",
    "SHARE",
    "SWEEP",
    "Caller",
    "ClutchBackend",
    "Ending",
    "GuardWord",
    "Listener",
    "Note",
    "Occupant",
    "Record",
    "RecordWord",
    "Reply",
]
