"""The verbs of an operator: `sweep`, `doctor` and `web`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any

import click

from dramatiq_clutch.terminal import coloured, safe

from .target import Code, Escaping, Refusal, Target, target_options
from .text import say, say_json, tell, width, wrapped

#: The version of the document that `doctor` prints as JSON.
SCHEMA = 1

#: The names under which this machine is asked by itself. On loopback the page answers under these alone: otherwise any
#: site could let its own name point here, and read the page in the visitor's browser. What stands before the first
#: colon counts, which of an address of IPv6 is a bracket.
LOOPBACK = ["127.0.0.1", "localhost", "::1", "[::1]", "["]

#: How wide the column of severities is.
INDENT = 9


@click.command("sweep")
@target_options()
@click.pass_obj
def sweep_verb(target: Target, /) -> None:
    """Do once what a worker's sweeper does: finish what is owed and nobody does.

    With --url, the sweepers of the workers are called instead.
    """
    from dramatiq_clutch import sweep

    outcome = sweep(target.broker)
    if target.json:
        say_json(dataclasses.asdict(outcome))
    elif outcome.left_to_workers:
        say("The sweepers of the workers were called.")
    else:
        failed = f", {outcome.failed:,} of which couldn't be looked at" if outcome.failed else ""
        say(f"Runs that were due: {outcome.looked_at:,}{failed}.")
    sys.exit(Code.REFUSED if outcome.failed else Code.DONE)


@click.command("doctor")
@target_options()
@click.pass_obj
def doctor_verb(target: Target, /) -> None:
    """Examine the server, the broker and the workers; the exit code is 1 if there is an error among the findings.

    It changes nothing. What the server's user isn't allowed to ask is told.
    """
    from dramatiq_clutch import examine

    found = examine(target.broker)
    if target.json:
        say_json({"schema": SCHEMA, "findings": [dataclasses.asdict(finding) for finding in found]})
    else:
        most = width()
        for finding in found:
            lines = wrapped(safe(finding.text), None if most is None else most - INDENT)
            say(coloured(finding.severity, f"{finding.severity:{INDENT}}") + lines[0])
            for line in lines[1:]:
                say(" " * INDENT + line)
            if finding.way_out:
                lines = wrapped(f"-> {safe(finding.way_out)}.", None if most is None else most - INDENT)
                for line in lines:
                    say(" " * INDENT + line)
    errors = sum(finding.severity == "error" for finding in found)
    if errors and not target.json:
        tell(f"{errors} error{'s' if errors > 1 else ''}.")
    sys.exit(Code.REFUSED if errors else Code.DONE)


@click.command("web")
@target_options()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. The page asks nobody who he is.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8_321, show_default=True, help="Where to listen.")
@click.option("--actions", is_flag=True, help="Let whoever sees the page cancel, retry, resend and delete.")
@click.pass_obj
def web_verb(target: Target, /, host: str, port: int, actions: bool) -> None:
    """Serve the page of runs on this machine, until Ctrl-C.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks web --actions
    """
    from .command import lacking

    try:
        import uvicorn
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        web = importlib.import_module("dramatiq_clutch.web")
    except ModuleNotFoundError as error:
        raise lacking(error.name, "web") from error
    served = web.app(target.broker, actions=actions)
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        port = listener.getsockname()[1]
        tell(f"http://{shown}:{port}/ shows the runs of {target.whose}; Ctrl-C ends.")
        if host in LOOPBACK:
            served = TrustedHostMiddleware(served, allowed_hosts=LOOPBACK, www_redirect=False)
        else:
            tell(coloured("warning", "It listens for other machines, too, and asks nobody who he is."))
        server = uvicorn.Server(uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=1))
        with _changes_told(), _quiet_in_the_end(server), contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextlib.contextmanager
def _changes_told() -> Iterator[None]:
    """Tell who changes what by the page, too, which is no warning."""
    logger, handler = logging.getLogger("dramatiq_clutch.web"), logging.StreamHandler()
    handler.setFormatter(Escaping())
    handler.addFilter(lambda record: record.levelno < logging.WARNING)  # the others are told anyway
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextlib.contextmanager
def _quiet_in_the_end(server: Any) -> Iterator[None]:
    """Whoever still follows a page when the server ends is cut off, each of which uvicorn tells as an error."""

    def works(_: logging.LogRecord) -> bool:
        return not server.should_exit

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(works)
    try:
        yield
    finally:
        logger.removeFilter(works)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises Refusal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Refusal(f"it can't listen on {host}, port {port}: {error}", Code.USAGE) from error
