"""Tokens: what one call names something by that nobody else must ever name so, such as a lease or a copy of a message.

They are made for every job, so they aren't read from the system's source: that lets other threads take the
interpreter's lock, and getting it back takes up to 5 ms in a busy worker. Nothing secret hangs on them.
"""

from __future__ import annotations

import os
from random import Random

# A generator of our own, since a job may well seed the one that everybody shares.
_random = Random()

if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_random.seed)


def new_token(digits: int = 16) -> str:
    """A random string of so many hexadecimal digits."""
    return f"{_random.getrandbits(4 * digits):0{digits}x}"
