"""The verb `graph`: a run as a Mermaid flowchart, or as a picture."""

from __future__ import annotations

import click

from dramatiq_clutch.terminal import escaped

from .completing import ids
from .target import Target, target_options
from .text import named, say, say_json


@click.command("graph")
@target_options()
@click.argument("run_id", metavar="RUN", callback=named, shell_complete=ids)
@click.option("--svg", is_flag=True, help="As a picture in SVG; it is drawn here, without a browser or a network.")
@click.pass_obj
def graph_verb(target: Target, /, run_id: str, svg: bool) -> None:
    """Draw a run as a Mermaid flowchart: its stages and the runs nested in it, coloured by their states.

    \b
    For example:
      dramatiq-clutch -b myapp.tasks graph nightly-2026-11-28 > run.mmd
      dramatiq-clutch -b myapp.tasks graph nightly-2026-11-28 --svg > run.svg
    """
    from dramatiq_clutch import Run

    drawn = Run(run_id, broker=target.broker).to_mermaid()
    picture = picture_of(drawn) if svg else None
    if target.json:
        say_json({"schema": 1, "mermaid": drawn} | ({"svg": picture} if picture else {}))
    else:
        say((picture or drawn).rstrip("\n"))


def picture_of(mermaid: str) -> str:
    """The picture of a flowchart as SVG."""
    from .command import lacking

    try:
        import mmdr
    except ImportError as error:
        raise lacking(error.name, "svg") from error
    svg: str = mmdr.render(mermaid).svg()
    return "\n".join(map(escaped, svg.splitlines()))  # its own markup is printable
