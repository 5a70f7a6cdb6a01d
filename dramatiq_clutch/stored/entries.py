"""What the register has of a run: enough to find it by state, name and tag, and to tell whether that is out of date.

entry           GENERATION " " TURNS " " CREATED " " [ ENDED ] " " STATE " " *LABEL
                76543210 2 01764331937000 01764331938000 succeeded 5e0f…
label           16 digits of a digest                     `label`
CREATED, ENDED  UNIX milliseconds, of 14 digits
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

#: How many digits a label has.
LABEL = 16

#: How many digits a time has, so that times are ordered as texts are.
DIGITS = 14

ENTRY = re.compile(r"(\w*) (\d+) (\d+) (\d*) (\w*) ([0-9a-f]*)", re.ASCII)


def label(kind: str, what: str = "") -> str:
    """The label of all runs, of those that are stalled, or of those with this state, name or tag. It is a digest: so
    all labels are of one length, whatever is in a name, and none is the beginning of another."""
    return blake2b(f"{kind}:{what}".encode(errors="surrogatepass"), digest_size=LABEL // 2).hexdigest()


def time_of(milliseconds: int) -> str:
    """A time as it is stored. One that has more digits is the latest that can be stored."""
    return str(min(max(milliseconds, 0), 10**DIGITS - 1)).zfill(DIGITS)


def tags_in(stored: str | bytes | None) -> tuple[str, ...]:
    """The tags of a run, which its head has as a JSON list; no tags if that can't be read, because they only inform."""
    try:
        found = json.loads(stored or "[]")
    except ValueError:
        return ()
    return tuple(tag for tag in found if isinstance(tag, str)) if isinstance(found, list) else ()


@dataclass(frozen=True, slots=True)
class Turn:
    """How a run has come to be shown: under which state, and by which of its turns, which are counted from 1. Of two
    turns of a run the one with the higher number is newer. `created` and `ended` are UNIX milliseconds; `ended` is None
    as long as the run is at work."""

    generation: str
    number: int
    state: str
    created: int
    ended: int | None = None
    name: str = ""
    tags: tuple[str, ...] = ()
    stalled: bool = False

    @property
    def labels(self) -> Iterator[str]:
        """Under which labels the run is found."""
        yield label("all")
        yield label("state", self.state)
        if self.stalled:
            yield label("stalled")
        if self.name:
            yield label("name", self.name)
        yield from (label("tag", tag) for tag in dict.fromkeys(self.tags))

    def entry(self) -> Entry:
        ended = "" if self.ended is None else time_of(self.ended)
        return Entry(self.generation, self.number, time_of(self.created), ended, self.state, "".join(self.labels))


@dataclass(frozen=True, slots=True)
class Entry:
    """A run's entry. `created` and `ended` are as they are stored. An entry without `labels` is of a run that is to be
    taken out."""

    generation: str = ""
    turns: int = 0
    created: str = "0" * DIGITS
    ended: str = ""
    state: str = ""
    labels: str = ""

    def __str__(self) -> str:
        return f"{self.generation} {self.turns} {self.created} {self.ended} {self.state} {self.labels}"

    @classmethod
    def parse(cls, stored: str) -> Entry:
        """The entry that this text is. What nobody could have written is an empty one, which any other replaces."""
        found = ENTRY.fullmatch(stored)
        if found is None:
            return cls()
        generation, turns, *others = found.groups()
        return cls(generation, int(turns), *others)


def place_of(run_id: str, entry: Entry) -> str:
    """Where a run stands among those that have a label, newest first. The page after it goes on there."""
    return entry.created + run_id
