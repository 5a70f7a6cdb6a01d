"""Dramatiq's tests of one release: where they come from, and how they are run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

import dramatiq_clutch
from tests.dramatiq_suite.everywhere import BROKERS, PORT
from tests.support.server import Server

HERE = Path(__file__).parent
PACKAGE = Path(dramatiq_clutch.__file__).parent

#: What the tests need beside Dramatiq, and the middleware for runs in memory. With watchdog 7, Dramatiq doesn't notice
#: that a file changes, and its tests of that fail.
NEEDS = ("pytest>=8", "pytest-timeout>=2.3", "lupa>=2.2", "watchdog<7")

#: For how long a single test may hang, and all of them may take, in seconds.
TEST_TIMEOUT, TIMEOUT = 60, 1_200

#: All of these tests need RabbitMQ.
LEFT_OUT = "--ignore=tests/test_rabbitmq.py"

Outcomes = dict[str, str]


class NoSuite(Exception):
    """The release's tests, or an interpreter that has the release, can't be had."""


def installed() -> str:
    """Which release of Dramatiq this interpreter has."""
    return version("dramatiq")


@dataclass(frozen=True)
class Suite:
    """Dramatiq's tests, in a folder of their own, and the interpreter that runs them."""

    folder: Path
    python: str

    @classmethod
    def of(cls, release: str, scratch: Path) -> Suite:
        """Get the tests of a release, and an interpreter that has it, which is this one if it does. Raises NoSuite."""
        folder = scratch / "suite"
        _unpack(_sdist(release, scratch), folder)
        python = sys.executable if release == installed() else _interpreter(release, scratch / "venv")
        return cls.prepared(folder, python)

    @classmethod
    def prepared(cls, folder: Path, python: str = sys.executable) -> Suite:
        """Put what the tests in a folder's `tests` need beside them."""
        shutil.copy(HERE / "fixtures.py", folder / "tests" / "conftest.py")
        shutil.copy(HERE / "common.py", folder / "tests" / "common.py")
        shutil.copy(HERE / "everywhere.py", folder / "sitecustomize.py")
        (folder / "tests" / "__init__.py").touch()
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / PACKAGE.name).symlink_to(PACKAGE, target_is_directory=True)
        return cls(folder, python)

    def run(self, *arguments: str, with_middleware: bool) -> tuple[Outcomes, int]:
        """Run the tests. Returns how each of them ended, by its name, and how many brokers have had the middleware."""
        report, brokers = self.folder / "report.xml", self.folder / "brokers"
        for file in (report, brokers):
            file.unlink(missing_ok=True)
        options = [f"--junitxml={report}", f"--timeout={TEST_TIMEOUT}", LEFT_OUT, *_without_plugins()]
        with Server() as server:
            environment = {
                **os.environ,
                # Dramatiq starts its command line anew, on a SIGHUP, as the `python` that it finds.
                "PATH": f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(self.folder),
                PORT: str(server.port),
                BROKERS: str(brokers) if with_middleware else "",
            }
            _call([self.python, "-m", "pytest", "-q", *options, *arguments], self.folder, environment)
        if not report.exists():
            raise NoSuite(f"the tests in {self.folder} told nothing:\n{self.log}")
        return dict(_outcomes(report)), len(brokers.read_text()) if brokers.exists() else 0

    @property
    def log(self) -> str:
        """What the last run has said."""
        return (self.folder / "log").read_text()


def _sdist(release: str, scratch: Path) -> Path:
    _pip(sys.executable, "download", "-d", str(scratch), "--no-deps", "--no-binary", ":all:", f"dramatiq=={release}")
    return next(scratch.glob("dramatiq-*.tar.gz"))


def _unpack(sdist: Path, folder: Path) -> None:
    """The tests alone: in the same folder, Dramatiq's own modules would hide those that are installed."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            _, _, inside = member.name.partition("/")
            content = archive.extractfile(member) if inside.startswith("tests/") else None
            if content is not None:
                target = folder / "tests" / Path(inside).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


def _interpreter(release: str, folder: Path) -> str:
    """A new environment that has a release of Dramatiq."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    _pip(python, "install", f"dramatiq[redis,rabbitmq,watch]=={release}", *NEEDS)
    return python


def _pip(python: str, command: str, *arguments: str) -> None:
    done = subprocess.run([python, "-m", "pip", command, "-q", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSuite(f"pip {command} {' '.join(arguments)}:\n{done.stderr}")


def _without_plugins() -> Iterator[str]:
    """Options that switch off what this project's environment may have, and Dramatiq's tests don't expect."""
    for name in ("randomly", "xdist", "hypothesispytest", "cacheprovider"):
        yield f"-pno:{name}"


def _call(command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    """Run the tests in a session of their own, so that nothing that they start stays."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _outcomes(report: Path) -> Iterator[tuple[str, str]]:
    for case in ET.parse(report).iter("testcase"):
        file = case.get("classname", "").replace(".", "/")
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if kinds else "passed"
        yield f"{file}.py::{case.get('name')}", outcome
