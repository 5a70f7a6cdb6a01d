"""Noticing that a test starts processes of its own, so that the quick tier stays in one."""

from __future__ import annotations

import sys
from typing import Any

from tests.support.server import server_binary

#: What Python tells an audit hook when a process is started. `subprocess.Popen` tells nothing else on the way.
STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system")


class Watch:
    """`started` has what this process starts from now on, but for the tests' servers. Python never removes an audit
    hook, so there is one of these for a session."""

    def __init__(self) -> None:
        self.started: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in STARTS:
            return
        command = list(arguments[1]) if event == "subprocess.Popen" and not isinstance(arguments[1], str) else []
        if command[:1] != [server_binary()]:
            self.started.append(f"{event} {command or arguments}")
