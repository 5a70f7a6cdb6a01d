"""A real browser, and the page of runs served by uvicorn on loopback."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, sync_playwright

from tests.support.awaiting import PATIENCE, wait_until

#: The browser asks nobody for anything by itself.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

LOCK = Path(tempfile.gettempdir(), "dramatiq-clutch-chromium.lock")


def chromium() -> str:
    """Where Chromium is. It is installed if we may, by one process at a time; otherwise the test is skipped."""
    if (found := _found()) is not None:
        return found
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        pytest.skip("there is no chromium, and it can't be installed: that takes apt-get, and root")
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _found() is None:
            for command in (["update", "-q"], ["install", "-y", "-q", "chromium"]):
                done = subprocess.run([apt, *command], capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"there is no chromium, and apt-get can't install it: {done.stderr.strip()[-500:]}")
    found = _found()
    if found is None:
        pytest.skip("there is no chromium, although apt-get has installed it")
    return found


def _found() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def served(application: Any) -> Iterator[str]:
    """Serve an application in a thread. Gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until("the server to have started", lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@contextmanager
def browsing(*, width: int = 1440, height: int = 900, theme: Any = "light", **more: Any) -> Iterator[Page]:
    """A page in a new browser of its own, in one of the themes. Whatever its console says against it is an error."""
    path = chromium()
    with tempfile.TemporaryDirectory(prefix="clutch-browser-") as folder, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=path,
            args=list(ARGUMENTS),
            viewport={"width": width, "height": height},
            color_scheme=theme,
            **more,
        )
        context.set_default_timeout(PATIENCE * 1_000)
        page = context.pages[0]
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        try:
            yield page
        finally:
            context.close()
        assert not [text for text in said if "Content Security Policy" in text or "Error" in text], said
