"""What users write type-checks: the examples, the blocks of the READMEs, and the public names, by mypy and by pyright.
The rest of the project is checked by mypy alone, among the linters."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.test_readme import BLOCK, COMING_FROM, GUIDE, README, SERVERS

ROOT = Path(__file__).parents[1]

#: What in a README is right and isn't followed by a checker: an actor without annotations that names itself, times that
#: are there once a member has ended, and Django, which has no types.
KNOWN = ("crawl.message(depth - 1)", "member.ended - member.began", "from django.")

pytestmark = pytest.mark.process


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    """The Python blocks of each README as a module, whose lines have the numbers that they have on the page."""
    made = []
    named = {README: "readme", GUIDE: "guide", COMING_FROM: "coming_from", SERVERS: "servers"}
    for page, name in named.items():
        text, lines = page.read_text(), list[str]()
        for block in BLOCK.finditer(text):
            if block[1] == "python":
                lines += [""] * (text[: block.start(2)].count("\n") - len(lines)) + block[2].splitlines()
        made.append(tmp_path / f"{name}.py")
        made[-1].write_text("\n".join(lines) + "\n")
        assert sum(map(bool, lines)) > 5
    return made


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A module with a mistake in its third line, to be checked beside others: what a checker lets pass with those, it
    has looked at."""
    path = tmp_path / "wrong.py"
    path.write_text("from dramatiq_clutch import Clutch\n\nClutch().then(3)\n")
    return path


def outcome(command: Sequence[str | Path]) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # where pyright looks for packages
    where: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "PATH": path}}
    done = subprocess.run([sys.executable, "-m", *command], **where, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told: str = done.stdout
    return told


def unknown(complaints: Sequence[tuple[str, int, str]], wrong: Path) -> list[str]:
    """What is complained of, as (file, line from 1 on, text), but for what is known. The mistake must be there."""
    assert {(Path(file), number) for file, number, _ in complaints if Path(file) == wrong} == {(wrong, 3)}
    complaints = [one for one in complaints if Path(one[0]) != wrong]
    lines = [(file, number, Path(file).read_text().splitlines()[number - 1], text) for file, number, text in complaints]
    return [
        f"{file}:{number}: {text}: {line.strip()}"
        for file, number, line, text in lines
        if not any(known in line for known in KNOWN)
    ]


def test_mypy_takes_the_blocks_of_the_readmes_and_not_a_mistake(pages: list[Path], wrong: Path) -> None:
    """Their functions have no annotations, for the sake of who reads them; so it isn't strict."""
    options = ("--config-file=", "--check-untyped-defs", "--cache-dir", wrong.parent / "cache")
    told = outcome(["mypy", *options, *pages, wrong])
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", told, re.MULTILINE)
    assert unknown([(file, int(number), text) for file, number, text in found], wrong) == []
    assert "checked 5 source files" in told


def test_pyright_takes_the_examples_the_readmes_and_the_public_names_and_not_a_mistake(
    pages: list[Path], wrong: Path
) -> None:
    files = [*sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "tests" / "typing").glob("[!_]*.py"))]
    files += [*pages, wrong]
    told = outcome(["pyright", "--outputjson", "--pythonpath", sys.executable, *files])
    report = json.loads(told[told.index("{") :])
    assert report["summary"]["filesAnalyzed"] >= len(files)
    found = [
        (one["file"], one["range"]["start"]["line"] + 1, one["message"])
        for one in report["generalDiagnostics"]
        if one["severity"] == "error"
    ]
    assert unknown(found, wrong) == []


def test_pyright_knows_the_type_of_every_name_of_the_package() -> None:
    """Also of those that it could infer, but might infer otherwise than mypy does."""
    command = ["pyright", "--pythonpath", sys.executable, "--verifytypes", "dramatiq_clutch", "--ignoreexternal"]
    told = outcome(command)
    assert re.search(r"Type completeness score: 100%", told), told
