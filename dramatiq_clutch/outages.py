"""Tells what an error means, whichever server it is of: whether the server only refuses this payload, and what the
operator can do.

As a rule workers wait for the end of an error. It is final only if it is known to come again for the same payload.
"""

from __future__ import annotations

import re

from dramatiq.errors import BrokerError

#: The texts with which servers, hosted services and brokers refuse a payload that is too large for them.
REFUSAL = re.compile(
    r"string exceeds maximum allowed size|max request size exceeded|max (single )?record size exceeded"
    r"|larger than configured max size",
    re.IGNORECASE,
)


def is_outage(error: BaseException) -> bool:
    """Whether an error is of a kind that servers or the network cause. Any other is taken for a fault in a program."""
    return isinstance(error, OSError | BrokerError)


def way_out(error: BaseException) -> str:
    """What the operator can do about an error that workers wait for."""
    return "is it running?" if is_outage(error) else "an unexpected error; it may be a fault of this program"


def in_words(error: BaseException, *, is_known: bool) -> str:
    """The text of an error. Its type is added if the error has no text, or isn't known to be a server's."""
    return str(error) if is_known and str(error) else repr(error)


def refuses(error: BaseException) -> bool:
    """Whether a server has said that it will never take this payload."""
    return bool(REFUSAL.search(str(error)))
