"""What no history may break, whatever has happened in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: A command as the store in memory was given it, and its reply.
Done = tuple[tuple[bytes, ...], Any]

#: The fields of a head that are looked at.
WATCHED = (b"gen", b"state", b"stage")

#: What the ids of the duties begin with that tell of a success.
SUCCESS = b"on_success:"


class Promises:
    """Looks at each step of a history, and remembers what the ones before it have done.

    - A run that has succeeded stays so, and no run goes back to an earlier stage.
    - No duty of a run is owed a second time: so each stage is released once, and each callback that was counted is told
      of once.
    - A run tells of its success once.
    """

    def __init__(self) -> None:
        self._heads: dict[bytes, dict[bytes, bytes]] = {}
        self._owed: set[tuple[bytes, bytes]] = set()

    @classmethod
    def of(cls, values: Mapping[bytes, Any]) -> Promises:
        """Those of runs that are there already."""
        promises = cls()
        for key, value in values.items():
            if key.endswith(b"}:head"):
                promises._heads[key] = {name: value[name] for name in WATCHED if name in value}
            elif b"}:outbox:" in key:
                for duty in value:
                    promises._remember(key, duty)
        return promises

    def broken_by(self, done: Sequence[Done]) -> Iterator[str]:
        """What this step shouldn't have done."""
        for (name, key, *args), reply in done:
            if key.endswith(b"}:head"):
                yield from self._head(name, key, args)
            elif name == b"HSETNX" and b"}:outbox:" in key and reply == 1:
                yield from self._duty(key, args[0])

    def _head(self, name: bytes, key: bytes, args: Sequence[bytes]) -> Iterator[str]:
        if name in (b"DEL", b"UNLINK"):
            self._heads.pop(key, None)
        if name != b"HSET":
            return
        fields = dict(zip(args[::2], args[1::2], strict=True))
        if b"gen" in fields:
            self._heads[key] = {}
        known = self._heads.setdefault(key, {})
        if known.get(b"state") == b"succeeded" != fields.get(b"state", b"succeeded"):
            yield f"a run that has succeeded becomes {fields[b'state'].decode()}"
        if int(fields.get(b"stage", b"0")) < int(known.get(b"stage", b"0")) and b"stage" in fields:
            yield f"a run goes back from stage {int(known[b'stage'])} to stage {int(fields[b'stage'])}"
        known |= {name: value for name, value in fields.items() if name in WATCHED}

    def _duty(self, key: bytes, duty: bytes) -> Iterator[str]:
        if (key, duty) in self._owed:
            yield f"the duty {duty.decode()} is owed a second time"
        elif duty.startswith(SUCCESS) and (key, SUCCESS) in self._owed:
            yield "a run tells of its success a second time"
        self._remember(key, duty)

    def _remember(self, key: bytes, duty: bytes) -> None:
        self._owed |= {(key, duty), *([(key, SUCCESS)] if duty.startswith(SUCCESS) else [])}
