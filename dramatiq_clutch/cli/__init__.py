"""The command `dramatiq-clutch`: looks at runs and steers them. It stands on the public names of the package."""

from __future__ import annotations

import sys

#: What the command says if it was installed without its extra.
INSTALL = """\
dramatiq-clutch: the command needs click and rich. Install them with
    pip install "dramatiq-clutch[cli]"
"""


def main() -> None:
    """Run the command: what `dramatiq-clutch` and ``python -m dramatiq_clutch`` do."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.stderr.write(INSTALL)
        sys.exit(2)
    from .command import run

    run()
