"""Completion in a shell: the script for it, and the ids of runs."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from dramatiq_clutch.terminal import safe

from .target import Code, Refusal, Target

#: How many ids are offered at most.
MOST = 100

#: How many characters of a run's name are shown beside its id.
MOST_NAME = 60


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_verb(shell: str) -> None:
    """Print the script that completes this command in a shell.

    \b
    For example, in ~/.bashrc:
      eval "$(dramatiq-clutch completion bash)"

    Ids of runs are completed, too, where the environment says whose runs are meant.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Refusal(f"there is no completion for {shell}", Code.USAGE)
    from .command import command

    click.echo(kind(command, {}, "dramatiq-clutch", "_DRAMATIQ_CLUTCH_COMPLETE").source())


def ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest runs whose ids begin so, if it is known whose runs are meant."""
    from dramatiq_clutch import ClutchError, runs

    target = ctx.ensure_object(Target)
    try:
        page = runs(broker=target.broker, limit=MOST)
    except (ClutchError, Refusal):  # there is nothing to offer, and nobody to tell
        return []
    found = [run for run in page if run.run_id.startswith(incomplete)]
    return [CompletionItem(run.run_id, help=f"{run.state} {safe(run.name or '', MOST_NAME)}") for run in found]
