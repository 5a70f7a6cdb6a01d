"""The verb `graph`: a run as a Mermaid flowchart."""

from __future__ import annotations

import click

from .completing import ids
from .target import Target, target_options
from .text import say, say_json


@click.command("graph")
@target_options()
@click.argument("run_id", metavar="RUN", shell_complete=ids)
@click.pass_obj
def graph_verb(target: Target, /, run_id: str) -> None:
    """Draw a run as a Mermaid flowchart: its stages and the runs nested in it, coloured by their states.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks graph nightly-2026-11-28 > run.mmd
    """
    from dramatiq_clutch import Run

    drawn = Run(run_id, broker=target.broker).to_mermaid()
    if target.json:
        say_json({"schema": 1, "mermaid": drawn})
    else:
        say(drawn.rstrip("\n"))
