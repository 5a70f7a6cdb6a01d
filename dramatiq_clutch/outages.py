"""What an error of a server means, whichever server it is: whether it refuses just this payload, and what to do.

Waiting is the rule: only what is known to come again for the same payload is final.
"""

from __future__ import annotations

import re

from dramatiq.errors import BrokerError

#: What servers, hosted ones and brokers say of a payload that they will never take.
REFUSAL = re.compile(
    r"string exceeds maximum allowed size|max request size exceeded|max (single )?record size exceeded"
    r"|larger than configured max size",
    re.IGNORECASE,
)


def is_outage(error: BaseException) -> bool:
    """Whether an error is of the kinds that a server, or the way to it, causes; any other is a fault in a program."""
    return isinstance(error, OSError | BrokerError)


def way_out(error: BaseException) -> str:
    """What the operator can do about an error that is waited for."""
    return "is it running?" if is_outage(error) else "an unexpected error; it may be a fault of this program"


def in_words(error: BaseException, *, is_known: bool) -> str:
    """The text of an error, with its type where the text alone says too little: of one that isn't known to be a
    server's, or that has no text."""
    return str(error) if is_known and str(error) else repr(error)


def refuses(error: BaseException) -> bool:
    """Whether a server has said that it will never take this payload."""
    return bool(REFUSAL.search(str(error)))
