"""The Pythons of the matrix: those of this machine; or Debian's, which are unpacked and not installed; or, without the
GIL, built from Debian's sources, which takes some minutes, a compiler, and the headers of OpenSSL, zlib and libffi."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.programs import CACHE, Missing, elsewhere, locked, source, unpacked

#: Which suites of Debian have which Python.
SUITES = {"3.13": "trixie", "3.14": "forky"}


def paths(python: str) -> list[str]:
    """Where programs are, `python3.14` among them if `python` is "3.14".

    Raises:
      Missing: There is no such Python, and it can't be had.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    known = [*os.environ["PATH"].split(os.pathsep), *(str(one / "bin") for one in sorted(pyenv.glob("3.*")))]
    if not python or shutil.which(f"python{python}", path=os.pathsep.join(known)):
        return known
    suite = SUITES.get(python.rstrip("t"))
    if suite is None:
        raise Missing(f"there is no Python {python} on this machine")
    return [*known, str(_built(suite, python) if python.endswith("t") else _of_debian(suite, python))]


def _of_debian(suite: str, python: str) -> Path:
    """The folder with a program that runs the Python of another Debian. It is told its own name, for what it runs
    besides, and environments that are made of it, start that program, too."""
    folder = unpacked(suite, f"python{python}")
    program = folder / "usr" / "started" / f"python{python}"  # from here it finds ../lib/python3.14
    program.parent.mkdir(exist_ok=True)
    loader, *others = elsewhere(folder, f"usr/bin/python{python}")
    arguments = " ".join(f"'{one}'" for one in others)
    program.write_text(f'#!/bin/sh\nexec \'{loader}\' --argv0 "$0" {arguments} "$@"\n')
    program.chmod(0o755)
    return program.parent


def _built(suite: str, python: str) -> Path:
    """The folder with a Python that has no GIL."""
    found = source(suite, f"python{python.rstrip('t')}")
    folder = CACHE / "pythons" / python
    with locked(f"python{python}"):
        if not folder.exists():
            options = ["--disable-gil", "--disable-test-modules", "--without-ensurepip", f"--prefix={folder}"]
            _done(found, "./configure", "-q", *options)
            _done(found, "make", "-s", f"-j{os.cpu_count()}")
            _done(found, "make", "-s", "altinstall")
    return folder / "bin"


def _done(folder: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if result.returncode:
        raise Missing(f"{command[0]} fails: {result.stderr.strip().splitlines()[-1:]}")
