"""Puts the scripts together from their pieces, binds their keys and arguments by name, and finds the file and line of
an error.

A script in the folder `lua` begins with a comment that says what the script takes:

    -- USES take, life              pieces of `lua/lib` that are put before it, with all pieces that these use
    -- KEYS head, here.members      its keys; names with a dot are fields of a table
    -- ARGV member, epoch number, renew flag, results...
    -- READS ending                 arguments that a later piece has, as fields of a table `asked`

Each piece has such a header of its own. Keys and arguments are bound to local variables of these names, so that no
place is counted, in Lua or in Python. The last key may have a question mark: then a call may leave it out. An argument
is a string, unless the header says that it is a `number`, or a `flag` (which is '1' or ''). An argument whose name ends
with three dots is the list of all arguments that are left.

The server runs the whole script for each call, so it makes all of its functions each time. That was a third of what the
server did for a job, and is made cheaper in four ways: a script has only the functions of its pieces that it uses; the
numbers of `constants` stand in the text itself; most functions are made inside another one (see `_inside`); and the
common step of a series is done before those are made (see `lib/step.lua`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from .constants import CONSTANTS

#: The order in which pieces are put together. Each may use those before it.
PIECES = (
    *("run", "times", "line", "ahead", "news", "along", "step", "timings", "turn", "terms", "failures", "members"),
    *("listed", "nested", "snapshot", "report", "firings", "carry", "outbox", "awaited", "timing", "onward", "take"),
    *("release", "limit", "waiting", "callbacks", "halt", "rest", "deadline", "completion", "parent", "life"),
    *("tombstone", "history", "expiry", "revival", "entry", "called", "unsent", "atwork", "shown", "clocking", "bunch"),
)

#: The first of them, which most others use: the others are made inside a function (see `_inside`).
OUTER = 10

#: The name in Lua of the function that is made of the broker's own script, so that it does something in the same step.
DISPATCH = "dispatch"

#: The scripts that call it, if they are put together with it.
WITH_BROKER = ("enqueue", "keep", "record", "succeed")

#: How an argument is read, by its kind.
READ = {"": "{}", "number": "tonumber({})", "flag": "{} == '1'"}


def text_of(name: str) -> str:
    """The text of a file of Lua, by its path in the folder `lua`."""
    return (resources.files(__package__) / "lua" / name).read_text(encoding="utf-8")


class Line(NamedTuple):
    """A line of a script, and where it comes from."""

    text: str
    file: str
    at: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file of Lua: its header, and its lines. `code` has those that aren't comments, in which the numbers that both
    languages know stand in place of their names. `reads` are the names of arguments that a file after it binds."""

    name: str
    lines: tuple[str, ...]
    code: tuple[Line, ...]
    uses: tuple[str, ...]
    keys: tuple[str, ...]
    arguments: tuple[str, ...]
    reads: tuple[str, ...]

    @classmethod
    def read(cls, name: str) -> Source:
        """This file. Use `source_of`, which reads a file only once, though many scripts use it."""
        text = text_of(name)
        header = text[: len(text) - len(re.sub(r"\A(--.*\n)*", "", text))]
        uses, keys, arguments, reads = (
            tuple(
                word.strip()
                for line in re.findall(rf"^-- {tag}  ?(.*)$", header, re.MULTILINE)
                for word in line.split(",")
            )
            for tag in ("USES", "KEYS", "ARGV", "READS")
        )
        lines = tuple(text.splitlines())
        code = [(at, line) for at, line in enumerate(lines, 1) if not re.match(r"\s*(--|$)", line)]
        numbered = tuple(Line(re.sub(r"\b[A-Z_]{3,}\b", _number, line), name, at) for at, line in code)
        return cls(name, lines, numbered, uses, keys, arguments, reads)


source_of = cache(Source.read)


@dataclass(frozen=True, slots=True)
class Script:
    """A whole script, as the server gets it.

    `keys` and `arguments` are the names of what it takes, in order. `last_key` is a key that a call may leave out, or
    ''. `rest` is the name of the list of all arguments that follow, or None if it takes none. `sha` is the name under
    which the server caches the script. `origin` has, for each line of the `text`, the file and the line it comes from.
    """

    name: str
    text: str
    keys: tuple[str, ...]
    last_key: str
    arguments: tuple[str, ...]
    rest: str | None
    sha: str
    origin: tuple[tuple[str, int], ...]

    def call(self, keys: Mapping[str, str], given: Mapping[str, Any], rest: Sequence[Any] = ()) -> tuple[Any, ...]:
        """What follows the script, or its SHA, in a call of EVAL or EVALSHA: the number of keys, the keys, the
        arguments. `rest` goes into the list that the script takes last.

        Raises TypeError for arguments that the script doesn't take, or that are missing.
        """
        if len(given) != len(self.arguments) or (rest and self.rest is None):
            raise TypeError(
                f"script {self.name!r} takes {[*self.arguments, self.rest]}, not {[*given]} and {len(rest)} more"
            )
        try:
            names = [keys[name] for name in self.keys]
            if self.last_key in keys:
                names.append(keys[self.last_key])
            return (len(names), *names, *[given[name] for name in self.arguments], *rest)
        except KeyError as error:
            raise TypeError(f"script {self.name!r} also takes {error}") from error

    def located(self, message: str) -> str:
        """An error's text, with the file and the line of the source in place of the line of the whole script."""
        return re.sub(r"@?user_script:(\d+)", lambda found: self._origin_of(int(found[1])), message)

    def _origin_of(self, line: int) -> str:
        file, at = self.origin[line - 1] if 0 < line <= len(self.origin) else (self.name, line)
        return f"{file}:{at}"


def script_names() -> list[str]:
    """The names of all scripts."""
    files = (resources.files(__package__) / "lua").iterdir()
    return sorted(file.name.removesuffix(".lua") for file in files if file.name.endswith(".lua"))


@cache
def script(name: str, dispatch: str = "") -> Script:
    """A script by its name. With `dispatch`, the text of a broker's own script, it can have the broker do something in
    the same step (see `lib/along.lua`)."""
    main = source_of(f"{name}.lua")
    sources = [*_pieces_of(main, main.uses), main]
    keys = tuple(sorted(dict.fromkeys(key for source in sources for key in source.keys), key=_is_optional))
    slots = [slot for source in sources for slot in source.arguments]
    rests = [slot for slot in slots if slot.endswith("...")]
    slots = [slot for slot in slots if not slot.endswith("...")]
    if len(rests) > 1 or len({slot.split()[0] for slot in slots}) < len(slots):
        raise ValueError(f"script {name!r} takes two arguments of one name, or two lists: {slots + rests}")
    places = {slot: f"ARGV[{at}]" for at, slot in enumerate(slots, 1)}
    places |= {key: f"KEYS[{at}]" for at, key in enumerate(keys, 1)}
    bound: set[str] = set()
    body = _used([line for source in sources for line in _lines(source, places, bound, len(slots) + 1)])
    optional = keys[-1].removesuffix("?") if _is_optional(keys[-1]) else ""
    tables = _tables(places)
    head = [Line(tables, f"{name}.lua", 1)] if tables else []
    lines = [*head, *_broker(body, dispatch), *_inside(body)]
    text = "\n".join(line.text for line in lines)
    return Script(
        name=name,
        text=text,
        keys=keys[:-1] if optional else keys,
        last_key=optional,
        arguments=tuple(slot.split()[0] for slot in slots),
        rest=rests[0].removesuffix("...") if rests else None,
        sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
        origin=tuple((line.file, line.at) for line in lines),
    )


def _pieces_of(main: Source, uses: Sequence[str]) -> list[Source]:
    """The pieces that a script uses, with those that these use, in order. Raises ValueError for a piece that uses one
    that comes after it, and for one that doesn't exist."""
    wanted, found = set(uses), list[Source]()
    for name in reversed(PIECES):
        if name in wanted:
            found.insert(0, source_of(f"lib/{name}.lua"))
            late = [used for used in found[0].uses if used not in PIECES[: PIECES.index(name)]]
            if late:
                raise ValueError(f"lib/{name}.lua uses {late}, which don't come before it")
            wanted |= set(found[0].uses)
    if not wanted <= set(PIECES):
        raise ValueError(f"{main.name} uses {sorted(wanted - set(PIECES))}: there are no such pieces")
    return found


def _lines(source: Source, places: Mapping[str, str], bound: set[str], rest_at: int) -> Iterator[Line]:
    """The code of a file of Lua. Before it come lines that bind the file's keys (unless they are `bound` already)
    and arguments to local variables; and what it reads to a table `asked`, since most names of arguments are those of
    parameters, too, in the files between."""
    plain = {key.removesuffix("?"): places[key] for key in source.keys if "." not in key and key not in bound}
    bound.update(source.keys)
    for slot in source.arguments:
        if not slot.endswith("..."):
            plain[slot.split()[0]] = _read(slot, places[slot])
    if plain:
        yield Line(f"local {', '.join(plain)} = {', '.join(plain.values())}", source.name, 1)
    for slot in source.arguments:
        if slot.endswith("..."):
            name = slot.removesuffix("...")
            loop = f"for at = {rest_at}, #ARGV do {name}[#{name} + 1] = ARGV[at] end"
            yield Line(f"local {name} = {{}} {loop}", source.name, 1)
    if source.reads:
        read = {slot.split()[0]: _read(slot, place) for slot, place in places.items()}
        yield Line(f"local asked = {{{', '.join(f'{name} = {read[name]}' for name in source.reads)}}}", source.name, 1)
    yield from source.code


def _read(slot: str, place: str) -> str:
    """How an argument, or a key, is read."""
    return READ.get(slot.partition(" ")[2], "{}").format(place)


def _number(found: re.Match[str]) -> str:
    return str(CONSTANTS.get(found[0], found[0]))


def _used(lines: Sequence[Line]) -> list[Line]:
    """These lines without the functions that no line after them names. None is used before it is there."""
    blocks, is_open = list[list[Line]](), False
    for line in lines:
        if is_open:
            blocks[-1].append(line)
        else:
            blocks.append([line])
        begins = line.text.startswith("local function ") and not line.text.endswith(" end")
        is_open = begins or (is_open and line.text != "end")
    kept, words = list[Line](), set[str]()
    for block in reversed(blocks):
        function = re.match(r"local function (\w+)", block[0].text)
        if function is None or function[1] in words:
            kept[:0] = block
            words.update(re.findall(r"\w+", "\n".join(line.text for line in block)))
    return kept


def _inside(lines: Sequence[Line]) -> Iterator[Line]:
    """These lines, with those that come after the `OUTER` pieces inside a function of their own, which is called.

    To make a function that uses a local variable from around it, Lua looks for that variable among all that any
    function uses so far, one after the other. Those that are outside of the function that is running are at hand.
    """
    outer = {f"lib/{name}.lua" for name in PIECES[:OUTER]}
    is_inside = False
    for line in lines:
        if not is_inside and line.file not in outer:
            is_inside = True
            yield Line("return (function()", line.file, line.at)
        yield line
    if is_inside:
        yield Line("end)()", line.file, line.at)


def _is_optional(key: str) -> bool:
    return key.endswith("?")


def _broker(body: Sequence[Line], dispatch: str) -> Iterator[Line]:
    """The broker's script as a function, for a body that calls it; nil without that."""
    if any(DISPATCH in line.text for line in body):
        function = [f"local function {DISPATCH}(KEYS, ARGV)", *dispatch.splitlines(), "end"]
        lines = function if dispatch else [f"local {DISPATCH}"]
        yield from (Line(line, "the broker's script", at) for at, line in enumerate(lines))


def _tables(places: Mapping[str, str]) -> str:
    """A line of Lua that defines the tables of the keys whose names have a dot, such as `here` for `here.members`."""
    tables: dict[str, list[str]] = {}
    for slot, place in places.items():
        table, dot, field = slot.partition(".")
        if dot and not slot.endswith("..."):
            tables.setdefault(table, []).append(f"{field} = {place}")
    return " ".join(f"local {table} = {{{', '.join(fields)}}}" for table, fields in tables.items())
