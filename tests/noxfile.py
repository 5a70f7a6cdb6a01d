"""A session for each environment of the matrix: `nox -f tests/noxfile.py -l`. See `tests/matrix/__init__.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.matrix.environments import ENVIRONMENTS
from tests.matrix.session import ROOT, run
from tests.support.programs import CACHE

nox.options.sessions = list(ENVIRONMENTS)
nox.options.envdir = str(CACHE / "environments")


#: nox makes environments in this folder, where Python would otherwise take `typing/` for its own module.
os.environ["PYTHONSAFEPATH"] = "1"


def _session(session: nox.Session) -> None:
    session.chdir(ROOT)
    run(session, ENVIRONMENTS[session.name.removesuffix(f"-{session.python}")])  # nox adds a Python that it is told


for environment in ENVIRONMENTS.values():
    # Not by `venv`, which Debian's Pythons have in a package of its own.
    nox.session(name=environment.name, python=environment.python or None, venv_backend="virtualenv", reuse_venv=True)(
        _session
    )
