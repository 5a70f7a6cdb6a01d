"""What is handed out: the wheel and the source archive, each built, looked at, and used as by somebody who has nothing
else. They need a package index, for what they are built with and what they require."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

import dramatiq_clutch
from tests.support.server import Server
from tests.support.workers import Worker
from tests.test_readme import README, blocks

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.process


def done(*command: str | Path, folder: Path = ROOT, **env: str) -> str:
    """What a command prints. It must succeed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        list(map(str, command)), cwd=folder, env=inherited | env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both archives, which is made once for all processes of tests."""
    common = tmp_path_factory.getbasetemp()
    folder = (common.parent if "PYTEST_XDIST_WORKER" in os.environ else common) / "dist"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_name("dist-unfinished")
            done(sys.executable, "-m", "build", "--outdir", making)
            making.rename(folder)
    return folder


@pytest.fixture
def wheel(built: Path) -> Path:
    (one,) = built.glob("*.whl")
    return one


@pytest.fixture
def unpacked(built: Path, tmp_path: Path) -> Path:
    """The source archive, unpacked."""
    (one,) = built.glob("*.tar.gz")
    with tarfile.open(one) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The Python of an environment that has nothing but pip."""
    venv.create(tmp_path / "empty", with_pip=True)
    return tmp_path / "empty" / "bin" / "python"


def files_of(folder: str) -> set[str]:
    """The files of a folder of the repository that are part of it."""
    listed = done("git", "ls-files", "--cached", "--others", "--exclude-standard", folder).splitlines()
    return {name for name in listed if (ROOT / name).exists()}


def test_both_archives_are_as_an_index_wants_them(built: Path) -> None:
    archives = sorted(built.iterdir())
    assert [path.name.rpartition("0")[2] for path in archives] == ["-py3-none-any.whl", ".tar.gz"]
    told = done(sys.executable, "-m", "twine", "check", "--strict", *archives)
    assert told.count("PASSED") == 2


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only the repository tells which files are part of it")
def test_the_wheel_has_every_file_of_the_package_and_none_besides(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == files_of("dramatiq_clutch")
    assert {Path(name).suffix for name in packed} >= {".py", ".typed", ".lua", ".html", ".css", ".js", ".svg"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only the repository tells which files are part of it")
def test_the_source_archive_has_the_whole_repository(unpacked: Path) -> None:
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert packed - {"PKG-INFO"} == files_of(".")


def test_the_version_is_the_same_everywhere(wheel: Path) -> None:
    version = dramatiq_clutch.__version__
    assert metadata.version("dramatiq-clutch") == version
    assert wheel.name.split("-")[1] == version
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert not released or released[0] == version, "the newest release in CHANGELOG.md is another version"


@pytest.fixture
def application(tmp_path: Path, server: Server) -> tuple[Path, Sequence[str]]:
    """A folder with README's first example as the module `app`, and the lines that run its clutch."""
    first, second = blocks(README, "python")[:2]
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "app.py").write_text(first.replace("RedisBroker()", f"RedisBroker(url={server.url!r})"))
    (folder / "go.py").write_text(f"from app import *\n{second}")
    return folder, blocks(README, "text")[0].splitlines()


def test_the_first_example_of_readme_runs_where_only_the_wheel_is_installed(
    wheel: Path, empty: Path, application: tuple[Path, Sequence[str]]
) -> None:
    folder, shown = application
    done(empty, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel)
    installed = done(empty, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").split()
    names = {line.partition("==")[0].lower() for line in installed} - {"pip", "setuptools", "wheel"}
    assert {"dramatiq", "dramatiq-clutch", "redis"} <= names
    # What Dramatiq and redis themselves require; nothing else comes with us.
    assert names <= {"dramatiq", "dramatiq-clutch", "redis", "prometheus-client", "async-timeout", "typing-extensions"}
    with Worker("app", root=folder, python=empty):
        assert done(empty, "-W", "error", "go.py", folder=folder).splitlines() == shown


def test_tests_pass_in_the_source_archive(unpacked: Path) -> None:
    """Those of the builder and of the contract. They find the package that lies beside them."""
    tests = ["tests/test_builder.py", "tests/test_contract.py", "tests/test_scripts.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, "-k", "not redis"]
    told = done(*command, folder=unpacked, PYTHONPATH=str(unpacked))
    assert int(re.findall(r"(\d+) passed", told)[0]) > 400
    where = done(sys.executable, "-c", "import dramatiq_clutch as c; print(c.__file__)", folder=unpacked)
    assert Path(where.strip()).is_relative_to(unpacked)
