"""Makes tokens: random names that no other call or process uses, for a lease, for example, or for a copy of a message.

Tokens are made for every job, so they aren't read from the system's random source: such a read releases Python's global
lock, and getting that back takes up to 5 ms in a busy worker. Tokens needn't be secret.
"""

from __future__ import annotations

import os
from random import Random

# It is a generator of its own, because a job may seed the shared one, and two workers would then make the same tokens.
_random = Random()

if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_random.seed)


def new_token(digits: int = 16) -> str:
    """A random string of so many hexadecimal digits."""
    return f"{_random.getrandbits(4 * digits):0{digits}x}"
