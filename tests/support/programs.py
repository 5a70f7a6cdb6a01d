"""Servers that the matrix of environments needs, from Debian's packages: fetched once, unpacked into a folder of the
user's, and started from there. Nothing is installed, so no service of the system's starts, and nobody needs to be root.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Where programs and environments are kept between runs.
CACHE = Path(os.environ.get("CLUTCH_TESTS_CACHE", Path.home() / ".cache" / "dramatiq-clutch-tests"))

#: What apt says of a package's needs, and what of that isn't one.
_NO = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]


class Missing(Exception):
    """A program can't be had on this machine. Its text says why."""


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Alone among all processes that ask for the same name."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpacked(suite: str, *packages: str) -> Path:
    """A folder with what these packages of a Debian suite, such as "bookworm", and all that they need have in them.

    Raises:
      Missing: This is no Debian, or its mirror can't be reached.
    """
    folder = CACHE / "debian" / f"{suite}-{'-'.join(packages)}"
    with locked(folder.name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                _fetch(suite, packages, Path(scratch))
                folder.parent.mkdir(exist_ok=True)
                Path(scratch, "root").rename(folder)
    return folder


def source(suite: str, package: str) -> Path:
    """A folder with the source of a package of a Debian suite, as its authors have it.

    Raises:
      Missing: as `unpacked`; some mirrors have no sources, or not all.
    """
    folder = CACHE / "sources" / f"{suite}-{package}"
    with locked(folder.name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                apt, place = _apt_of(suite, Path(scratch), "deb-src"), Path(scratch, "archives")
                apt("apt-get", "source", "--download-only", package, cwd=place)
                archive = next(found for found in place.glob("*.orig.tar.*") if found.suffix != ".asc")
                shutil.unpack_archive(archive, place / "unpacked")
                (top,) = (place / "unpacked").iterdir()
                folder.parent.mkdir(exist_ok=True)
                top.rename(folder)
    return folder


def elsewhere(folder: Path, program: str) -> list[str]:
    """The command that runs a program of another Debian: with that one's loader and libraries."""
    loader = next((folder / "usr/lib").glob("*/ld-linux-*.so.*"), None) or next(folder.glob("lib*/**/ld-linux-*.so.*"))
    libraries = sorted({str(found.parent) for found in folder.glob("**/*.so.*")})
    return [str(loader), "--library-path", ":".join(libraries), str(folder / program)]


def wrapper(folder: Path, program: str) -> Path:
    """A file that runs a program of another Debian, for what takes no arguments."""
    file = folder / f"run-{Path(program).name}"
    command = " ".join(f"'{part}'" for part in elsewhere(folder, program))
    file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    file.chmod(0o755)
    return file


def own_suite() -> str:
    """The code name of this machine's Debian.

    Raises:
      Missing: It is none.
    """
    release = Path("/etc/os-release")
    found = dict(line.partition("=")[::2] for line in release.read_text().splitlines()) if release.exists() else {}
    if found.get("ID") != "debian":
        raise Missing("this machine is no Debian")
    return found["VERSION_CODENAME"].strip('"')


def _fetch(suite: str, packages: Sequence[str], scratch: Path) -> None:
    """Unpack what is needed into the folder `root`."""
    apt, archives = _apt_of(suite, scratch, "deb"), scratch / "archives"
    told = apt("apt-cache", "depends", "--recurse", *_NO, *packages)
    needed = sorted({line for line in told.splitlines() if line and line[0] not in " <"})
    apt("apt-get", "download", *needed, cwd=archives)
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, scratch / "root"], check=True)


def _apt_of(suite: str, scratch: Path, kind: str) -> Callable[..., str]:
    """Runs commands of apt that know this suite alone."""
    for path in ("lists/partial", "cache/partial", "parts", "archives", "root"):
        (scratch / path).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"{kind} {_mirror()} {suite} main\n")
    apt = functools.partial(_apt, scratch)
    apt("apt-get", "update")
    return apt


def _mirror() -> str:
    """Where this machine has its own packages from."""
    if shutil.which("apt-get") is None:
        raise Missing("there is no apt-get on this machine")
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True)
    found = [line for line in listed.stdout.splitlines() if line.rstrip("/").endswith("/debian")]
    if not found:
        raise Missing("apt-get knows no mirror of Debian")
    return found[0]


def _apt(scratch: Path, command: str, *arguments: str, cwd: Path | None = None) -> str:
    """What a command of apt says, which leaves the machine's own lists alone."""
    options = {
        "Dir::Etc::SourceList": scratch / "sources.list",
        "Dir::Etc::SourceParts": scratch / "parts",
        "Dir::State": scratch,
        "Dir::State::Lists": scratch / "lists",
        "Dir::State::Status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "Dir::Cache::Archives": scratch / "cache",
        "APT::Sandbox::User": "root",
    }
    said = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    done = subprocess.run([command, "-q", *said, *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{command} {arguments[0]} fails: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
