"""The READMEs inside the package are true: what the code has, they name, and what they name is there."""

from __future__ import annotations

import ast
import importlib
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

import dramatiq_clutch
from dramatiq_clutch import backends
from dramatiq_clutch.about import Context
from dramatiq_clutch.backend import Caller, Ending, Note, Record
from dramatiq_clutch.backends.memory import Clock, StubBackend
from dramatiq_clutch.backends.redis.keys import keys_of, register
from dramatiq_clutch.backends.redis.scripts import Source, script_names
from dramatiq_clutch.failures import failure_details
from dramatiq_clutch.status import status_from
from dramatiq_clutch.stored import duties
from dramatiq_clutch.stored.duties import Duty, OpenStage, SendAgain, SendMembers
from dramatiq_clutch.stored.places import CallbackTag, Place, Tag
from dramatiq_clutch.stored.plan import EVENTS, Plan, Spec, StageLine

PACKAGE = Path(dramatiq_clutch.__file__).parent
REDIS = PACKAGE / "backends/redis"
LUA = REDIS / "lua"
HOME, STORES = PACKAGE / "README.md", PACKAGE / "backends/README.md"
PYPROJECT = PACKAGE.parent / "pyproject.toml"

#: The modules that know Redis; all others are forbidden to.
KNOW_REDIS = {"dramatiq_clutch.backends.redis", "dramatiq_clutch.backends.memory"}

#: How many lines a module may have.
MOST_LINES = 350

TTL = 10_000_000
GENERATION = "76543210"

#: In milliseconds: later than any call that doesn't say otherwise.
DEADLINE = 5_000

Row = list[str]


# What the pages say


def table(page: Path, head: str) -> list[Row]:
    """The rows of the table on a page whose first two columns are headed like this."""
    rows, inside = list[Row](), False
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
        elif line.startswith(f"| {head} |"):
            inside = True
        elif inside and not line.startswith("|-"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"{page.name} has no table {head!r}"
    return rows


def names_in(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def named(page: Path, head: str) -> list[str]:
    """What the rows of a table are about, in order. Each is about one thing."""
    return [name for row in table(page, head) for name in names_in(row[0])]


def assert_same(page: Path, head: str, there: set[str]) -> None:
    rows = named(page, head)
    assert sorted(there - set(rows)) == [], f"these have no row in the table {head!r} of {page}"
    assert sorted(set(rows) - there) == [], f"the table {head!r} of {page} names these, which there are none of"
    assert len(rows) == len(set(rows)), f"the table {head!r} of {page} names something twice"


# What the code has


def code_of(path: Path) -> str:
    """A file of Lua without its comments."""
    return "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("--"))


def lua_files() -> dict[str, Path]:
    return {path.relative_to(LUA).as_posix().removesuffix(".lua"): path for path in LUA.rglob("*.lua")}


def arguments_from(text: str) -> Iterator[str]:
    """The arguments of a call in Lua, from the beginning of one of them to the end of the call."""
    depth, quoted, argument = 0, False, ""
    for letter in text:
        quoted ^= letter == "'"
        depth += not quoted and ((letter in "([{") - (letter in ")]}"))
        if depth < 0:
            break
        if letter == "," and not depth and not quoted:
            yield argument.strip()
            argument = ""
        else:
            argument += letter
    yield argument.strip()


def fields_written_by(code: str) -> set[str]:
    """The fields of the head that a piece of Lua writes or deletes; one for each stage or event is told by `<stage>` or
    `<event>`."""
    written = set[str]()
    for found in re.finditer(r"'HSET', head, ", code):
        written |= set(itertools.islice(arguments_from(code[found.end() :]), 0, None, 2))
    for pattern in (r"'(?:HINCRBY|HDEL|HSETNX)', head, ", r"\b(?:set|ring)\((?=')"):
        written |= {next(arguments_from(code[found.end() :])) for found in re.finditer(pattern, code)}
    known = (re.fullmatch(r"'(\w+)'( \.\. .*)?", argument) for argument in written)
    return {found[1] + each_of(found[2] or "") for found in known if found}


def each_of(more: str) -> str:
    """What a field's name ends with in the table, by what its name in Lua goes on with."""
    return f"<{'event' if 'event' in more else 'stage'}>" if more else ""


def fields_given_to_seal() -> set[str]:
    """The fields of the head that Python gives to the script as they are: those of a new run that Lua doesn't name."""
    store, place = StubBackend(), Place("parent", 0, 0, 0, GENERATION)
    plan = plan_of("name", parent=place)
    plan = replace(plan, spec=replace(plan.spec, context=Context({"a": 1}), timed=True))
    store.create("run", plan, caller("run:1"), run_ttl=TTL, result_ttl=TTL, tags=["a"])
    found = ask(store, "HGETALL", keys_of(store.namespace, "run", 0, "")["head"])
    fields = {re.sub(r"\d+$", "<stage>", name.decode()) for name in found[::2]}
    by_lua = set[str]().union(*(fields_written_by(code_of(path)) for path in lua_files().values()))
    return fields - by_lua | {"told", "s<stage>", "spec", "history"}


def ask(store: StubBackend, *command: str) -> Any:
    """What the server would reply."""
    client: Any = store.client
    return client.execute_command(*command)


def key_parts() -> set[str]:
    """The parts of all keys, as `keys` and what reads them by name have them."""
    parts = {name.split("}:")[1].split(":")[0] for name in keys_of("n", "r", 0, GENERATION).values()}
    for path in REDIS.glob("*.py"):
        parts |= set(re.findall(r"""_key\([\w.]+, f?"(\w+)""", path.read_text()))
    return parts | {"index", "workers"} | register("n", "app").keys()


def words_of(name: str) -> set[str]:
    """The words that a script's header says it returns."""
    header = itertools.takewhile(lambda line: line.startswith("--"), Source.read(f"{name}.lua").lines)
    returned = itertools.dropwhile(lambda line: not line.startswith("-- returns "), header)
    return set(re.findall(r"'(\w+)'", "\n".join(returned)))


def modules_below(folder: Path) -> set[str]:
    """Modules by their paths; a package by its folder's."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return {re.sub(r"(^|/)__init__\.py$", r"\1", name) or "./" for name in found}


# Modules


def test_every_module_of_the_package_has_a_row() -> None:
    everywhere = {name for name in modules_below(PACKAGE) if not name.startswith("backends/")}
    assert_same(HOME, "module | subject", everywhere | {"backends/"})


def test_every_module_of_the_stores_has_a_row() -> None:
    assert_same(STORES, "module | subject", modules_below(PACKAGE / "backends"))


def test_no_module_is_longer_than_350_lines() -> None:
    longer = {path.relative_to(PACKAGE).as_posix(): count for path, count in lines_by_module() if count > MOST_LINES}
    assert longer == {}, "split it by subject, so that each part can be told in one sentence"
    (said,) = re.findall(r"No module has more than (\d+) lines", HOME.read_text())
    assert int(said) == MOST_LINES


def lines_by_module() -> Iterator[tuple[Path, int]]:
    return ((path, len(path.read_text().splitlines())) for path in PACKAGE.rglob("*.py"))


def test_every_module_but_the_stores_in_redis_is_forbidden_to_know_redis() -> None:
    modules = {f"dramatiq_clutch.{module.name}" for module in pkgutil.iter_modules(dramatiq_clutch.__path__)}
    modules |= {f"dramatiq_clutch.backends.{module.name}" for module in pkgutil.iter_modules(backends.__path__)}
    contract = PYPROJECT.read_text().split('name = "Only the Redis store knows Redis"')[1]
    assert set(array("source_modules", contract)) == modules - KNOW_REDIS - {"dramatiq_clutch.backends"}
    assert array("forbidden_modules", contract) == ["redis"]


def test_the_picture_of_the_layers_is_what_the_linter_holds() -> None:
    picture = re.findall(r'^ +L\d+\["(.*)"\]', HOME.read_text(), re.MULTILINE)
    contract = [re.sub(r"dramatiq_clutch\.", "", layer) for layer in array("layers", PYPROJECT.read_text())]
    assert picture == contract


def array(name: str, text: str) -> list[str]:
    """The first array of this name in a TOML file: what is in it reads the same in Python, comments included."""
    found = re.search(rf"^{name} = (\[.*?\]$)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return list(ast.literal_eval(found[1]))


# What is stored


def test_every_part_of_a_key_has_a_row() -> None:
    assert_same(STORES, "part | type", key_parts())


def test_every_name_that_a_header_gives_to_a_key_is_told() -> None:
    headers = {name.removesuffix("?") for file in lua_files() for name in Source.read(f"{file}.lua").keys if name}
    assert {name.split(".")[1] for name in headers if "." in name} <= key_parts()
    assert_same(
        STORES, "name | stands for", {name for name in headers if "." not in name} - keys_of("", "", 0, "").keys()
    )


def test_every_field_of_the_head_has_a_row_that_names_who_writes_it() -> None:
    writers: dict[str, set[str]] = {field: {"create()"} for field in fields_given_to_seal()}
    for file, path in lua_files().items():
        for field in fields_written_by(code_of(path)):
            writers.setdefault(field, set()).add(file)
    rows = [row for row in table(STORES, "field | type") if names_in(row[0])]
    assert {names_in(row[0])[0]: bare(row[3]) for row in rows} == writers


def test_every_field_of_a_duty_in_the_outbox_has_a_row() -> None:
    code = "\n".join(code_of(path) for path in lua_files().values())
    fields = set(re.findall(r"\b(?:duty|owed)\.(\w+)", code))
    (made,) = re.findall(r"local duty = (\{.*?\n  \})", code, re.DOTALL)
    fields |= set(re.findall(r"(\w+) = ", made))
    assert_same(STORES, "field | says", fields)


def test_every_kind_of_duty_has_a_row_with_an_id_that_reads_as_one() -> None:
    kinds = {kind.__name__ for kind in get_args(duties.Duty)}
    assert_same(STORES, "duty | its id, for example", kinds)
    for row in table(STORES, "duty | its id, for example"):
        for example in names_in(row[1]):
            duty = duties.parse(example)
            assert (type(duty).__name__, duty.id) == (names_in(row[0])[0], example)


def test_every_script_and_every_piece_has_a_row() -> None:
    assert_same(STORES, "file | subject", {f"{file}.lua" for file in lua_files()})


def test_every_word_that_a_script_returns_has_a_row_that_names_the_script() -> None:
    scripts: dict[str, set[str]] = {}
    for name in script_names():
        for word in words_of(name):
            scripts.setdefault(word, set()).add(name)
    assert {names_in(row[0])[0]: bare(row[1]) for row in table(STORES, "word | from")} == scripts


def test_every_note_has_a_row() -> None:
    assert {name.strip("'") for name in named(STORES, "note | says")} == set(get_args(Note))


def bare(cell: str) -> set[str]:
    """The files of Lua that a cell names, without their endings; and what else it does."""
    return {name.removesuffix(".lua") for name in names_in(cell)}


# Transitions


def caller(owner: str, lease: str = "a lease") -> Caller:
    return Caller(owner, 1_000_000, lease, 1_000)


def plan_of(name: str, *, mapped: bool = False, parent: Place | None = None) -> Plan:
    """One stage of two members, or of as many as there will be."""
    line = StageLine(0, None if mapped else 2, many=True, mapped=mapped)
    callbacks: dict[str, tuple[bytes, ...]] = dict.fromkeys(EVENTS, (b"row",)) if parent else {}
    return Plan(
        Spec(name, None, None, callbacks, parent=parent, generation=GENERATION, deadline=DEADLINE),
        (line,),
        (b"row",) * (1 if mapped else 2),
    )


#: Duties as they would be held of a run that is gone.
SENT = SendMembers(0, 0, 2, lease="a lease", generation=GENERATION)
OPENED = OpenStage(0, lease="a lease", generation=GENERATION)
AGAIN = SendAgain(0, 1, 1, lease="a lease", generation=GENERATION)


class Story:
    """A run in a store in memory, and what is asked of it."""

    def __init__(self, *, mapped: bool = False, keeps: bool = False) -> None:
        self.mapped, self.keeps = mapped, keeps
        self.store = StubBackend(clock=Clock(at=1_000_000))
        self.held: list[Duty] = []

    def go_to(self, state: str, *, retried: bool = False) -> None:
        self.held += self.create("run:1", "claim").duties
        if self.mapped:
            UNOPENED[state](self)
            return
        self.record(0, "succeeded", 0)
        if retried:
            self.record(1, "dead", 3)
            self.held += self.store.retry("run", caller("retry:1")).duties
        (RETRIED if retried else STATES)[state](self)

    def create(self, owner: str, claim: str) -> Any:
        plan = plan_of("run", mapped=self.mapped)
        times: Any = {"run_ttl": TTL, "result_ttl": TTL}
        return self.store.create("run", plan, caller(owner), **times, claim=claim, keeps=self.keeps)

    def tag(self, member: int, of: int = 2) -> Tag:
        return Tag("run", 0, member, of, generation=GENERATION)

    def record(self, member: int, ending: Ending, attempt: int, *, of_run: bool = False) -> str:
        payload = b"1" if ending == "succeeded" else failure_details(ValueError(ending))
        record = Record(self.tag(member), attempt, ending, payload, of_run=of_run)
        return self.store.record(record, caller("0.1", "another lease")).word

    def duty(self, kind: type[Any], otherwise: Duty) -> Any:
        """The one that the caller holds, or would hold if the run were there."""
        return next((duty for duty in self.held if isinstance(duty, kind)), otherwise)

    def delete(self, *, asks: bool = False) -> str:
        return self.store.delete("run", caller("x"), generation=GENERATION, asks=asks).word

    def rewind(self) -> str:
        spec = replace(plan_of("run").spec, generation="89abcdef")
        return self.store.rewind("run", 0, spec, caller("retry:2"), generation=GENERATION).word

    def open(self, total: int) -> str:
        return self.store.open("run", self.duty(OpenStage, OPENED), total, caller("x")).word

    def is_late(self) -> Any:
        """A deadline is over, and somebody has seen that."""
        return self.store.owed("run", caller("y")._replace(now=1_000_000 + DEADLINE))

    def forget(self) -> Any:
        """All keys have expired, but the tombstone if there is one."""
        names = keys_of(self.store.namespace, "run", 0, GENERATION)
        return ask(self.store, "DEL", *(name for part, name in names.items() if part != "tombstone"))


Way = Callable[[Story], object]

#: How a run gets into each state, when member 0 has succeeded.
STATES: dict[str, Way] = {
    "running": lambda story: story.record(1, "failing", 3),
    "failed": lambda story: story.record(1, "dead", 3),
    "broken off": lambda story: (story.record(1, "failing", 3), story.is_late()),
    "succeeded": lambda story: story.record(1, "succeeded", 3),
    "cancelled": lambda story: (story.record(1, "failing", 3), story.store.cancel("run", caller("cancel:1"))),
    "gone, tombstone left": lambda story: (story.record(1, "succeeded", 3), story.forget()),
    "gone": lambda story: story.forget(),
}

#: How one does whose mapped stage hasn't been opened.
UNOPENED: dict[str, Way] = {
    "running": lambda story: None,
    "failed": lambda story: story.store.fail("run", story.held[0], b"{}", caller("x")),
    "broken off": lambda story: story.is_late(),
    "succeeded": lambda story: story.open(0),
    "cancelled": lambda story: story.store.cancel("run", caller("cancel:1")),
    "gone, tombstone left": lambda story: (story.open(0), story.forget()),
    "gone": lambda story: story.forget(),
}

#: How one does that has been retried, after member 1 was dead.
RETRIED: dict[str, Way] = {
    "running": lambda story: None,
    "failed": lambda story: story.record(1, "dead", 4),
    "broken off": lambda story: story.is_late(),
    "succeeded": lambda story: story.record(1, "succeeded", 4),
    "cancelled": lambda story: story.store.cancel("run", caller("cancel:1")),
    "gone, tombstone left": lambda story: (story.record(1, "succeeded", 4), story.forget()),
    "gone": lambda story: story.forget(),
}


def stands(story: Story) -> str:
    snapshot = story.store.snapshot("run")
    return status_from("run", snapshot).state if snapshot else "None"


def reopened(story: Story) -> str:
    """What the holder of the duty gets that a `retry()` has owed."""
    found = story.store.reopen("run", story.duty(SendAgain, AGAIN), 0, caller("x"))
    return "None" if found is None else "members"


#: What is asked of a run, by the first cell of its row.
CALLS: dict[str, Callable[[Story], str]] = {
    "`create()`, by the same call": lambda story: story.create("run:1", "claim").word,
    "`create()`, by another one": lambda story: story.create("run:2", "claim").word,
    "`create()`, of another clutch": lambda story: story.create("run:2", "other").word,
    "`guard()`, of member 0": lambda story: story.store.guard(story.tag(0), 1_000_000),
    "`guard()`, of member 1": lambda story: story.store.guard(story.tag(1), 1_000_000),
    "`guard()`, of no member": lambda story: story.store.guard(story.tag(2, 3), 1_000_000),
    "`record()`, a success of member 1": lambda story: story.record(1, "succeeded", 4),
    "`record()`, the same of a nested run": lambda story: story.record(1, "succeeded", 4, of_run=True),
    "`record()`, a later failure of member 1": lambda story: story.record(1, "failing", 4),
    "`record()`, an earlier one": lambda story: story.record(1, "failing", 2),
    "`record()`, a failure of member 0": lambda story: story.record(0, "failing", 4),
    "`owed()`": lambda story: story.store.owed("run", caller("x")).word,
    "`sweep()`": lambda story: story.store.sweep("run", caller("x"), stalled_after=1_000).word,
    "`open()`, of a mapped stage": lambda story: story.open(2),
    "`confirm()`": lambda story: story.store.confirm("run", story.duty(SendMembers, SENT), caller("x")),
    "`reopen()`, after a `retry()`": reopened,
    "`fail()`": lambda story: story.store.fail("run", story.duty(SendMembers, SENT), b"{}", caller("x")).word,
    "`heard()`": lambda story: story.store.heard(CallbackTag("run", GENERATION, "on_finish:0:1"), caller("x")),
    "`cancel()`": lambda story: story.store.cancel("run", caller("cancel:2")).word,
    "`retry()`": lambda story: story.store.retry("run", caller("x")).word,
    "`resend()`": lambda story: story.store.resend("run", caller("x")).word,
    "`retell()`": lambda story: story.store.retell("run", caller("x")).word,
    "`delete()`": lambda story: story.delete(),
    "`delete()`, only asked": lambda story: story.delete(asks=True),
    "`create()`, after a `delete()`": lambda story: (story.delete(), story.create("run:2", "claim").word)[-1],
    "`record()`, after a `delete()`": lambda story: (story.delete(), story.record(1, "succeeded", 4))[-1],
    "`guard()`, after a `delete()`": lambda story: (story.delete(), story.store.guard(story.tag(1), 1_000_000))[-1],
    "`rewind()`, of a run that keeps its results": lambda story: story.rewind(),
    "`rewind()`, of one that doesn't": lambda story: story.rewind(),
    "`record()`, after a `rewind()`": lambda story: (story.rewind(), story.record(1, "succeeded", 4))[-1],
    "`guard()`, after a `rewind()`": lambda story: (story.rewind(), story.store.guard(story.tag(1), 1_000_000))[-1],
    "`touch()`": lambda story: story.store.touch("run", caller("x")),
    "`snapshot()`, shown by `status()`": stands,
}


def transitions() -> Sequence[Row]:
    return table(STORES, "call | `running`")


def test_the_table_of_transitions_has_a_row_for_each_call() -> None:
    assert [row[0] for row in transitions()] == list(CALLS)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_answers_in_each_state_what_the_table_says(call: str) -> None:
    rewinds = "`rewind()`" in call and "doesn't" not in call
    (row,) = (row for row in transitions() if row[0] == call)
    answers = {}
    for state in STATES:
        story = Story(mapped="mapped" in call, keeps=rewinds)
        story.go_to(state, retried="after a `retry()`" in call)
        answers[state] = [CALLS[call](story)]
    assert {state: names_in(cell) for state, cell in zip(STATES, row[1:], strict=True)} == answers


# Words, the way of a message, paths


def test_words_are_in_alphabetical_order() -> None:
    words = [row[0].strip("*`").lower() for row in table(HOME, "word | meaning")]
    assert words == sorted(set(words))


def test_every_word_is_one_that_the_code_still_uses() -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*") if path.suffix in (".py", ".lua"))
    words = (row[0].strip("*`").replace(" ", "[ _]") for row in table(HOME, "word | meaning"))
    assert [word for word in words if not re.search(rf"\b{word}s?\b", code, re.IGNORECASE)] == []


def test_every_hop_names_functions_that_there_are() -> None:
    names = [name for row in table(HOME, "hop | where") for name in names_in(row[1]) if not name.endswith(".lua")]
    assert len(names) > 40
    for name in names:
        assert callable(found_by(name)), name


def test_what_answers_to_a_fact_about_dramatiq_is_there() -> None:
    modules = {module.name for module in pkgutil.iter_modules(dramatiq_clutch.__path__)}
    names = [name for row in table(HOME, "fact | so") for name in names_in(row[1])]
    ours = [name for name in names if re.fullmatch(r"[\w.]+", name) and name.split(".")[0] in modules]
    assert len(ours) >= 8
    for name in ours:
        assert found_by(name) is not None, name


def found_by(name: str) -> Any:
    """What a dotted name stands for, from the package on."""
    found: Any = dramatiq_clutch
    for part in name.split("."):
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", [HOME, STORES], ids=["package", "stores"])
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    paths = {name for name in names_in(text) if re.fullmatch(r"[\w/.-]+\.(py|lua|md|toml)", name)}
    paths |= {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link} - {""}
    roots = (page.parent, PACKAGE, PACKAGE.parent, LUA, page.parent / "redis")
    assert len(paths) > 20
    assert sorted(path for path in paths if not any((root / path).is_file() for root in roots)) == []
