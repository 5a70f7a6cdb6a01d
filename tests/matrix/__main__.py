"""`python -m tests.matrix [NAME …]`; see the package."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys

from tests.matrix.environments import CORNERS, ENVIRONMENTS
from tests.matrix.pythons import paths
from tests.matrix.session import ROOT, Outcome
from tests.matrix.table import README, rows, table, written
from tests.support.programs import CACHE, Missing, locked


def main() -> int:
    """The number of environments in which a test has failed is the exit code; what can't be had here is only told."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=sys.modules[__package__].__doc__)
    parser.add_argument("name", nargs="*", help="default: all of them")
    parser.add_argument("--corners", action="store_true", help="the oldest and the newest")
    parser.add_argument("--list", action="store_true", help="tell the names")
    parser.add_argument("--write", action="store_true", help="put the results into the table in tests/README.md")
    options = parser.parse_args()
    if options.list:
        print(*ENVIRONMENTS, sep="\n")
        return 0
    names = options.name or (CORNERS if options.corners else list(ENVIRONMENTS))
    if unknown := sorted(set(names) - set(ENVIRONMENTS)):
        parser.error(f"there is no {unknown[0]}; --list tells the names")
    outcomes = [outcome(name) for name in names]
    print(table({one.name: (one.versions, str(one)) for one in outcomes}))
    for one in outcomes:
        for test in one.failed:
            print(f"failed in {one.name}: {test}")
    if options.write:
        found = {one.name: (one.versions, str(one)) for one in outcomes}
        README.write_text(written(README.read_text(), rows(README.read_text()) | found))
    return sum(not one.is_well and not one.missing for one in outcomes)


def outcome(name: str) -> Outcome:
    """What comes of one environment, which nox makes and runs."""
    try:
        path = os.pathsep.join(paths(ENVIRONMENTS[name].python))
    except Missing as error:
        return Outcome(name, missing=str(error))
    Outcome(name, failed=("nox could not make the environment",)).keep()
    command = [*nox(), "-f", "tests/noxfile.py", "-s", name, "--error-on-missing-interpreters"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path})
    return Outcome.kept(name)


def nox() -> list[str]:
    """The command nox, with an environment of its own if it isn't installed beside the library."""
    if importlib.util.find_spec("nox") is not None:
        return [sys.executable, "-m", "nox"]
    folder = CACHE / "nox"
    with locked("nox"):
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", "nox"], check=True)
    return [str(folder / "bin/python"), "-m", "nox"]


if __name__ == "__main__":
    sys.exit(main())
