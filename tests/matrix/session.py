"""What is done in one environment, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from tests.matrix.environments import NEEDS, Environment
from tests.matrix.servers import SERVERS, version
from tests.support.programs import CACHE, Missing

if TYPE_CHECKING:
    import nox

ROOT = Path(__file__).parents[2]
RESULTS = CACHE / "results"

#: Said by the Python of an environment: what it has, with the packages that it is about.
ASKS = """
import importlib.metadata as m, json, platform, sys, sysconfig
python = platform.python_version() + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
found = {name: m.version(name) for name in ("dramatiq", "redis", *sys.argv[1:])}
known = {"Python": python, "Dramatiq": found.pop("dramatiq"), "redis-py": found.pop("redis")}
print(json.dumps(known | found))
"""


#: Said by it, too: which server carries the messages, if that can be had.
RELEASE = """
from {module} import release
from tests.support.programs import Missing
try:
    print(release())
except Missing:
    pass
"""


@dataclass(frozen=True)
class Outcome:
    """What came of an environment: how many tests, with which versions; or why there were none."""

    name: str
    versions: str = ""
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    seconds: int = 0
    missing: str = ""

    @property
    def is_well(self) -> bool:
        return not self.failed and bool(self.passed)

    def __str__(self) -> str:
        if self.missing:
            return f"not run: {self.missing}"
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        if self.failed:
            return f"**{len(self.failed)} failed**, {self.passed} passed{skipped}"
        return f"{self.passed} passed{skipped}"

    def keep(self) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def kept(cls, name: str) -> Outcome:
        found = json.loads((RESULTS / f"{name}.json").read_text())
        return cls(**{**found, "failed": tuple(found["failed"])})


def run(session: nox.Session, environment: Environment) -> None:
    """Make the environment, unless it is there, and run its tests. What came of it is kept."""
    try:
        program = SERVERS[environment.server]()
    except Missing as error:
        Outcome(environment.name, missing=str(error)).keep()
        session.skip(str(error))
    try:
        session.install("-q", "-e", ".", *NEEDS, *environment.packages)
    except Exception:
        Outcome(environment.name, missing="its packages can't be installed on this machine").keep()
        raise
    variables = {"CLUTCH_TESTS_SERVER": str(program), "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}  # "" is none
    variables |= environment.variables
    packages = dict.fromkeys([*brokers_in(environment.packages), *environment.beside])
    known = json.loads(session.run("python", "-c", ASKS, *packages, silent=True) or "{}")
    servers = [version(program)]
    if environment.carrier:
        asked = RELEASE.format(module=f"tests.support.{environment.carrier}")
        servers += (session.run("python", "-c", asked, env=variables, silent=True) or "").splitlines()
    versions = ", ".join([*(f"{name} {said}" for name, said in known.items()), *servers])
    report = CACHE / f"{environment.name}.xml"
    if environment.brokers:
        variables["CLUTCH_TESTS_BROKERS"] = environment.brokers
    options = ("-q", "--all", "-n", "2", "-p", "no:cacheprovider", f"--junitxml={report}")
    session.run("python", "-m", "pytest", *options, *environment.tests, env=variables, success_codes=[0, 1])
    outcome = read(environment.name, versions, report)
    outcome.keep()
    if not outcome.is_well:
        session.error(str(outcome))


def brokers_in(packages: Sequence[str]) -> list[str]:
    """The names of packages for Dramatiq among requirements: "dramatiq-pg" of ["dramatiq-pg==0.12", "pika"]."""
    return [found[0] for one in packages if (found := re.match(r"dramatiq-[\w-]+", one))]


def read(name: str, versions: str, report: Path) -> Outcome:
    """What a report of pytest's says."""
    (suite,) = ET.parse(report).iter("testsuite")
    cases = list(suite.iter("testcase"))
    failed = tuple(
        str(case.get("name")) for case in cases if case.find("failure") is not None or case.find("error") is not None
    )
    skipped = sum(case.find("skipped") is not None for case in cases)
    seconds = round(float(suite.get("time", 0)))
    return Outcome(name, versions, len(cases) - skipped - len(failed), failed, skipped, seconds)
