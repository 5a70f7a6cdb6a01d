"""The planted faults are what they say: each can be planted, and some test notices it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from dramatiq_clutch.backends.redis.scripts import script_names
from tests.mutants import DETECTORS, MUTANTS, REPOSITORY, SCRIPTS, main, mutant_named, rows, try_out, where
from tests.support.mutation import LUA, Mutant, changed_texts


def test_every_fault_can_still_be_planted(redis_client: redis.Redis) -> None:
    """Its text is found, and what comes of it is a program: one that can't be read would be noticed by any test."""
    troubles: list[str] = []
    for mutant in MUTANTS:
        try:
            name, text = next(changed_texts(mutant))
            if mutant.language == "python":
                compile(text, name, "exec")
            else:
                redis_client.script_load(text)
        except (LookupError, SyntaxError, redis.ResponseError) as error:
            troubles.append(f"{mutant.name}: {error!r}")
        if mutant.old == mutant.new:
            troubles.append(f"{mutant.name} changes nothing")
    assert not troubles


def test_a_fault_whose_text_is_not_found_any_more_is_an_error() -> None:
    gone = Mutant("gone", "", "a line that nobody has written", "", language="python")
    with pytest.raises(LookupError, match="gone"):
        list(changed_texts(gone))
    in_another_script = Mutant("elsewhere", "", SCRIPTS[0].old, "", file="guard")
    with pytest.raises(LookupError, match="elsewhere"):
        list(changed_texts(in_another_script))


def test_faults_have_names_of_their_own_and_say_what_they_break() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 45
    assert all(mutant.guarantee.endswith(".") for mutant in MUTANTS)
    with pytest.raises(LookupError, match="no mutant 'nothing'"):
        mutant_named("nothing")


def test_every_fault_has_a_row_that_says_who_notices_it() -> None:
    """`python -m tests.mutants --new --write` makes those that are missing."""
    known = rows()
    assert [mutant.name for mutant in MUTANTS if mutant.name not in known] == []
    assert set(known) == {mutant.name for mutant in MUTANTS}
    assert all("**nobody**" not in row for row in known.values())
    assert [mutant.name for mutant in MUTANTS if f"| {where(mutant)} |" not in known[mutant.name]] == []


def test_every_detector_is_there() -> None:
    for mutant in MUTANTS:
        path, _, test = DETECTORS.get(mutant.detector, (mutant.detector,))[0].partition("::")
        text = (REPOSITORY / path).read_text()
        assert not test or f"def {test}(" in text, mutant


def test_every_file_of_lua_has_a_fault() -> None:
    assert {mutant.place() for mutant in SCRIPTS} == set(LUA.rglob("*.lua"))


@pytest.mark.process
@pytest.mark.parametrize(
    "name", ["a sleeper confirms what has passed on", "all members have one id"], ids=["in a script", "in Python"]
)
@pytest.mark.timeout(300)
def test_a_planted_fault_is_noticed(name: str) -> None:
    verdict = try_out(mutant_named(name))
    assert verdict.is_good, verdict


@pytest.mark.process
@pytest.mark.timeout(300)
def test_a_fault_that_nobody_notices_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    unnoticed = "tests/test_tokens.py::test_a_token_has_as_many_digits_as_are_asked_for"
    assert main(["a sleeper confirms what has passed on", "--detector", unnoticed]) == 1
    assert "SURVIVED" in capsys.readouterr().out


COUNTING = """
import json, sys
import pytest
from dramatiq_clutch.backends.redis.scripts import Script
called, counts = Script.call, {}
def counting(self, *given):
    counts[self.name] = counts.get(self.name, 0) + 1
    return called(self, *given)
Script.call = counting
code = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "tests/test_contract.py", "--all", "-k", "memory"])
open(sys.argv[1], "w").write(json.dumps(counts))
sys.exit(code)
"""


@pytest.mark.process
@pytest.mark.timeout(300)
def test_the_contract_suite_runs_every_script(tmp_path: Path) -> None:
    """Also the common way: the whole transition alone would pass it, and wide stages would go unseen."""
    counted = tmp_path / "counts.json"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", COUNTING, str(counted)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2_000:]
    counts = json.loads(counted.read_text())
    assert set(script_names()) - counts.keys() == {"enqueue", "keep", "ring"}  # these are a courier's, not the store's
    assert counts["succeed"] > 20
