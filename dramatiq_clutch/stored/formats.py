"""The small formats of what is stored: the version of them all, and those that are no class of their own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from ..errors import DamagedState, NewerRelease

#: The version of the stored format. A worker leaves a run, a duty or a message of a newer format to newer workers.
FORMAT = 1

#: What a row of a plan begins with: it holds a message, or the plan of a nested run.
MESSAGE, NESTED = b"m", b"r"


def refuse_newer(version: Any, what: str) -> None:
    """Raises NewerRelease for a format that is newer than this release reads, DamagedState for what is none."""
    if type(version) is not int or version < 1:
        raise DamagedState(f"{what} has the format {version!r}, which no release writes")
    if version > FORMAT:
        raise NewerRelease(
            f"{what} has format {version}, and this dramatiq-clutch reads {FORMAT}: a newer release has written it"
        )


def pack(blobs: Sequence[bytes]) -> bytes:
    """Several byte strings as one, each after its length."""
    return b"".join(struct.pack(">I", len(blob)) + blob for blob in blobs)


def unpack(data: bytes) -> list[bytes]:
    """The opposite of `pack`. Raises ValueError or struct.error for what `pack` didn't write."""
    blobs, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        at += 4
        if at + size > len(data):
            raise ValueError("it is truncated")
        blobs.append(data[at : at + size])
        at += size
    if not blobs:
        raise ValueError("it is empty")
    return blobs
