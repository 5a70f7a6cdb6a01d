"""The command as a whole: its verbs, which are imported when they are asked for, and what becomes of errors."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from .target import Code, Refusal, Target, log_to_stderr, target_options

#: Each verb, the module that has it, and what it does, so that the list of verbs needs no module.
VERBS = {
    "list": ("looking", "List runs, newest first."),
    "show": ("looking", "Show a run: its stages, what it waits for, and why it fails."),
    "members": ("looking", "List the members of a stage of a run."),
    "watch": ("watching", "Follow a run until it is at rest."),
    "top": ("top", "Watch all runs at work, and steer them."),
    "cancel": ("steering", "Bring runs to rest at once."),
    "retry": ("steering", "Send dead members again."),
    "resend": ("steering", "Send members again whose messages were lost."),
    "delete": ("steering", "Delete what is kept of runs at rest."),
    "sweep": ("operating", "Do once what a worker's sweeper does."),
    "doctor": ("operating", "Examine the server, the broker and the workers."),
    "graph": ("drawing", "Draw a run as a Mermaid flowchart."),
    "web": ("operating", "Serve the page of runs on this machine."),
    "demo": ("demo", "Show everything in a minute, without a server."),
    "completion": ("completing", "Print the script that completes this command in a shell."),
}

EPILOG = """\b
Exit codes:
  0  done; a run that was watched has succeeded
  1  not all was done; a run that was watched has failed; doctor found errors
  2  that can't be asked: an option, a module, a broker, an extra
  3  there is no such run (any more)
  4  the state store or the broker is away
  5  a run that was watched was cancelled
  6  a run that was watched is still at work"""


class Verbs(click.Group):
    """Imports a verb when it is asked for, and tells errors in words."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        try:
            module = importlib.import_module(f".{VERBS[cmd_name][0]}", __package__)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("dramatiq"):
                raise
            raise lacking(error.name, "cli") from error
        verb: click.Command = getattr(module, f"{cmd_name}_verb")
        return verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        from dramatiq_clutch import ClutchError

        try:
            return super().invoke(ctx)
        except ClutchError as error:
            raise refusal_for(error) from error


def refusal_for(error: Exception) -> Refusal:
    """The end of the command for an error of the package."""
    from dramatiq_clutch import NotConfigured, RunNotFound, Unavailable

    code = Code.REFUSED
    if isinstance(error, NotConfigured):
        code = Code.USAGE
    elif isinstance(error, RunNotFound):
        code = Code.NO_SUCH_RUN
    elif isinstance(error, Unavailable):
        code = Code.AWAY
    return Refusal(str(error), code)


def lacking(name: str | None, extra: str) -> Refusal:
    """The end of the command where an extra isn't installed."""
    name = (name or "something").partition(".")[0]
    return Refusal(f'{name} isn\'t installed. Install it with pip install "dramatiq-clutch[{extra}]"', Code.USAGE)


@click.command(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dramatiq-clutch", message="%(version)s")
@target_options(is_group=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Looks at the runs of dramatiq-clutch and steers them.

    The options say whose runs are meant; they may also stand behind the verb. For example:

    \b
      dramatiq-clutch -b myapp.tasks list --state failed
      dramatiq-clutch show 0f6c1b1e-... --url redis://localhost:6379/0
      DRAMATIQ_CLUTCH_BROKER=myapp.tasks dramatiq-clutch watch nightly-2026-11-28
    """
    ctx.ensure_object(Target)


def run() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know few letters
    log_to_stderr()
    command(prog_name="dramatiq-clutch")
