"""The matrix of environments: its table is what was run, and a run that fails or doesn't take place says so."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.matrix import servers, session, table
from tests.matrix.environments import CORNERS, ENVIRONMENTS
from tests.matrix.session import ROOT, Outcome

REPORT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" time="12.6">
<testcase name="test_a"/><testcase name="test_b"><failure message="no"/></testcase>
<testcase name="test_c"><skipped message="not here"/></testcase><testcase name="test_d"><error message="oh"/></testcase>
</testsuite></testsuites>"""


def test_the_table_has_each_environment_with_a_result() -> None:
    said = table.rows(table.README.read_text())
    assert said
    assert set(said) <= set(ENVIRONMENTS), "python -m tests.matrix --write NAME"
    assert all(versions or result.startswith("not run: ") for versions, result in said.values())


def test_the_package_claims_the_pythons_that_its_tests_have_passed_on() -> None:
    said = [row for name, row in table.rows(table.README.read_text()).items() if name.startswith("python-")]
    ran = [re.match(r"Python (3\.\d+)\.\d+(t?),", versions) for versions, result in said if " passed" in result]
    text = (ROOT / "pyproject.toml").read_text()
    claimed = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text))
    assert claimed == {found[1] for found in ran if found and not found[2]}
    assert ('"Programming Language :: Python :: Free Threading' in text) == any(found[2] for found in ran if found)
    assert not any("failed" in result for _, result in said)


def test_what_an_environment_names_is_there() -> None:
    assert set(CORNERS) <= set(ENVIRONMENTS)
    for environment in ENVIRONMENTS.values():
        assert environment.server in servers.SERVERS
        files = [one for one in environment.tests if one.startswith("tests/")]
        assert files
        assert all((ROOT / file.partition("::")[0]).exists() for file in files), environment.name


def test_a_report_tells_what_failed_and_what_was_skipped(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    outcome = session.read("one", "Python 3", report)
    assert outcome == Outcome("one", "Python 3", 1, ("test_b", "test_d"), 1, 13)
    assert not outcome.is_well
    assert str(outcome) == "**2 failed**, 1 passed, 1 skipped"
    report.write_text(REPORT.replace("<failure", "<hint").replace("<error", "<hint"))
    assert session.read("one", "Python 3", report).is_well
    assert str(Outcome("one", missing="there is no such Python")) == "not run: there is no such Python"
    assert not Outcome("one").is_well


def test_the_broker_that_an_environment_is_about_is_told_with_its_release() -> None:
    assert session.brokers_in(["dramatiq-pg==0.12", "dramatiq[rabbitmq]", "pika"]) == ["dramatiq-pg"]
    assert session.brokers_in(ENVIRONMENTS["streams"].packages) == ["dramatiq-redis-streams"]
    for environment in ENVIRONMENTS.values():
        required = {re.split(r"[\[=<>]", one)[0] for one in environment.packages}
        assert set(environment.beside) <= required, environment.name
        if environment.carrier:
            assert callable(import_module(f"tests.support.{environment.carrier}").release)


def test_results_are_kept_beside_those_of_other_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "RESULTS", tmp_path)
    outcome = Outcome("redis-6.2", "Redis 6.2", 5)
    outcome.keep()
    assert Outcome.kept("redis-6.2") == outcome
    page = f"before\n{table.BEGIN}\n{table.END}\nafter"
    found = {"valkey-9": ("Valkey 9", "7 passed"), "redis-6.2": (outcome.versions, str(outcome))}
    page = table.written(page, found)
    assert table.rows(page) == found
    assert table.written(page, table.rows(page)) == page
    assert page.startswith("before\n")
    assert page.endswith("\nafter")
    with pytest.raises(LookupError):
        table.written("a page without marks", found)
