"""The scripts: what their headers say, how they are put together, and what is told of their errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from importlib import resources
from pathlib import Path

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.worker import _WorkerThread  # as it is called in Dramatiq 1, and may be called in 2
from redis.exceptions import ResponseError

from dramatiq_clutch import Clutch
from dramatiq_clutch.backends.redis import scripts
from dramatiq_clutch.backends.redis.calls import Calls
from dramatiq_clutch.backends.redis.constants import CONSTANTS
from dramatiq_clutch.backends.redis.keys import keys_of
from dramatiq_clutch.backends.redis.scripts import PIECES, Source, script, script_names
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.errors import StateUnavailable
from tests.conftest import running_worker

FOLDER = Path(str(resources.files("dramatiq_clutch.backends.redis"))) / "lua"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.lua"))

#: Keys that only some script has, beside those of a run.
OWN_KEYS = {
    *("list", "draft", "queue", "broker", "members", "times", "index", "entries", "places", "ended", "stopped"),
    "doorbell",
}


def test_every_piece_has_its_place_in_the_order() -> None:
    assert {f"lib/{name}.lua" for name in PIECES} == {file for file in FILES if file.startswith("lib/")}
    assert len(set(PIECES)) == len(PIECES)


def test_no_file_of_lua_is_longer_than_60_lines_or_wider_than_120_columns() -> None:
    for file in FILES:
        lines = (FOLDER / file).read_text().splitlines()
        assert len(lines) <= 60, file
        assert [line for line in lines if len(line) > 120] == [], file


def test_each_file_says_what_it_is_for_and_names_only_keys_that_there_are() -> None:
    known = keys_of("n", "r", 0, "g").keys() | OWN_KEYS
    for file in FILES:
        source = Source.read(file)
        assert re.match(r"-- (?!USES|KEYS|ARGV|returns)\S", source.lines[0]), file
        assert {name.removesuffix("?") for name in source.keys if not name.startswith("old.")} <= known, file


def test_each_script_says_what_it_returns() -> None:
    for name in script_names():
        assert [line for line in Source.read(f"{name}.lua").lines if line.startswith("-- returns ")], name


@pytest.mark.parametrize("file", FILES)
def test_every_slot_that_a_header_names_is_used_by_its_file(file: str) -> None:
    """One that isn't has been left behind, or belongs into the header of another piece."""
    source = Source.read(file)
    code = "\n".join(line for line in source.lines if not line.startswith("--"))
    slots = [key.removesuffix("?") for key in source.keys]
    slots += [slot.split()[0].removesuffix("...") for slot in source.arguments]
    slots += [f"asked.{name}" for name in source.reads]
    by_table = set(re.findall(r"\{(before), (here), (after)\}", code))
    unused = [slot for slot in slots if not re.search(rf"\b{re.escape(slot)}\b", code)]
    assert [slot for slot in unused if not (by_table and "." in slot)] == []


@pytest.mark.parametrize("name", [*script_names(), "record and send"])
def test_what_a_piece_defines_is_defined_before_it_is_used(name: str) -> None:
    """Lua would look for a global variable of that name, and find it missing only when a call comes by."""
    main, _, sends = name.partition(" and ")
    composed = script(main, "return 1" if sends else "")
    defined: set[str] = set()
    helpers = {
        found
        for file in FILES
        if file.startswith("lib/")
        for found in re.findall(r"^local function (\w+)", (FOLDER / file).read_text(), re.MULTILINE)
    }
    for line in composed.text.splitlines():
        code = re.sub(r"'[^']*'|--.*", "", line)
        used = set(re.findall(r"(?<![.\w])(\w+)\(", code)) & helpers
        defined |= set(re.findall(r"^local function (\w+)", line))
        assert used <= defined, line


def test_a_script_has_only_functions_that_it_uses() -> None:
    """The server makes all functions of a script again for each call."""
    for name in script_names():
        text = script(name).text
        for function in re.findall(r"^local function (\w+)", text, re.MULTILINE):
            assert len(re.findall(rf"\b{function}\b", text)) > 1, (name, function)


def test_arguments_are_bound_by_name_and_counted_by_nobody() -> None:
    draft = script("draft")
    assert (draft.keys, draft.arguments, draft.rest) == (("list",), ("offset", "ttl"), "entries")
    assert draft.call({"list": "k"}, {"ttl": 2, "offset": 1}, ["a", "b"]) == (1, "k", 1, 2, "a", "b")


def test_a_key_with_a_question_mark_may_be_left_out() -> None:
    confirm = script("confirm")
    given = {name: name for name in confirm.arguments}
    keys = {"head": "h", "outbox": "o"}
    assert confirm.call(keys, given)[:3] == (2, "h", "o")
    assert confirm.call({**keys, "queue": "q"}, given, ["id"])[:4] == (3, "h", "o", "q")


@pytest.mark.parametrize(
    ("given", "rest"), [({"offset": 1}, []), ({"offset": 1, "tll": 2}, []), ({"offset": 1, "ttl": 2, "more": 3}, [])]
)
def test_arguments_that_a_script_does_not_take_are_refused_by_name(given: dict[str, int], rest: list[str]) -> None:
    with pytest.raises(TypeError, match="draft"):
        script("draft").call({"list": "k"}, given, rest)


def test_a_script_without_a_list_takes_nothing_more() -> None:
    with pytest.raises(TypeError, match="guard"):
        script("guard").call({}, dict.fromkeys(script("guard").arguments, 0), ["more"])


def test_numbers_that_both_languages_know_are_written_once() -> None:
    """A script that names one gets it from the same table that the package reads."""
    text = script("record").text
    words = set(re.findall(r"\w+", text))
    assert not words & CONSTANTS.keys()
    assert {str(CONSTANTS[name]) for name in ("WORKING", "DEAD", "SPAN", "LAST")} <= words
    for file in FILES:
        assert not re.search(r"local [A-Z_]+ = \d", (FOLDER / file).read_text()), file


def test_an_error_in_a_script_names_the_file_and_the_line(redis_broker: RedisBroker) -> None:
    """The server only knows the line of the whole script that the pieces make."""

    @dramatiq.actor
    def job() -> None: ...

    run = Clutch().then(job).then(job).run()
    backend = engine_of(redis_broker).backend
    head = f"dramatiq-clutch:{{{run.run_id}}}:head"
    redis_broker.client.hset(head, "epoch", "damaged")  # nobody but another program would
    with pytest.raises(StateUnavailable, match=r"\.lua:\d+") as caught:
        backend.resend(run.run_id, engine_of(redis_broker).caller("somebody"))
    found = re.search(r"((?:lib/)?\w+\.lua):(\d+)", str(caught.value))
    assert found
    assert "run.epoch + 1" in (FOLDER / found[1]).read_text().splitlines()[int(found[2]) - 1]


def test_an_error_keeps_its_class_by_which_it_is_known(redis_client: redis.Redis) -> None:
    calls, snapshot = Calls(redis_client), script("snapshot")
    redis_client.set("foreign", "another program's")
    redis_client.pexpire("foreign", 60_000)
    keys = dict.fromkeys(snapshot.keys, "foreign")
    given = dict.fromkeys(snapshot.arguments, 1)
    with pytest.raises(StateUnavailable) as caught:
        calls.run(snapshot, snapshot.call(keys, given))
    assert isinstance(caught.value.__cause__, ResponseError)
    assert "WRONGTYPE" in str(caught.value)
    redis_client.delete("foreign")


def test_the_rights_that_an_operator_is_told_to_grant_have_every_command_that_a_script_calls() -> None:
    page = (FOLDER.parent / "README.md").read_text()
    texts = [(FOLDER / file).read_text() for file in FILES if file != "ring.lua"]  # the broker's user calls that
    called = {name.lower() for text in texts for name in re.findall(r"\bp?call\('([A-Z]+)'", text)}
    assert len(called) > 20
    assert {name for name in called if f"+{name}" not in page.split()} == set()


@pytest.mark.process
@pytest.mark.skipif(shutil.which("luacheck") is None, reason="luacheck isn't installed, which .ci/run does")
def test_luacheck_finds_nothing_in_a_whole_script(tmp_path: Path) -> None:
    """Names of its pieces, which shadow each other, show there only. What a script doesn't use of them is no fault."""
    for name in script_names():
        (tmp_path / f"{name}.lua").write_text(script(name).text)
    known, ignored = ["KEYS", "ARGV", "redis", "cjson"], ["211", "221", "241"]
    options = ["--no-color", "-q", "--no-max-line-length", "--std", "lua51", "--globals", *known, "--ignore", *ignored]
    found = subprocess.run(["luacheck", tmp_path, *options], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_what_a_worker_calls_is_put_together_before_its_first_job(
    redis_broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads that lead a wide stage would otherwise do that at the same time, for longer than they then work."""
    read, text_of = list[str](), scripts.text_of

    def noted(name: str) -> str:
        if isinstance(threading.current_thread(), _WorkerThread):
            read.append(name)
        return text_of(name)

    @dramatiq.actor
    def job(number: int) -> int:
        return number

    for known in (scripts.source_of, scripts.script):
        known.cache_clear()
    monkeypatch.setattr(scripts, "text_of", noted)
    with running_worker(redis_broker):
        wide = Clutch().parallel(job.message(number) for number in range(600))
        assert wide.then(job.message(600)).then(job.message(1)).run().get_result(block=True) == 1
    assert read == []
