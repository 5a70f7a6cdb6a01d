"""`python -m tests.dramatiq_suite [--dramatiq 2.2.1] [arguments of pytest]`"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.dramatiq_suite.comparison import compare
from tests.dramatiq_suite.suite import NoSuite, Suite, installed


def main() -> int:
    description = sys.modules[__package__].__doc__
    parser = argparse.ArgumentParser(prog="python -m tests.dramatiq_suite", description=description)
    parser.add_argument("--dramatiq", default=installed(), metavar="RELEASE", help="default: the one that is installed")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="clutch-dramatiq-") as scratch:
        try:
            comparison = compare(Suite.of(options.dramatiq, Path(scratch)), *arguments)
        except NoSuite as error:
            print(error, file=sys.stderr)
            return 2
    print(f"Dramatiq {options.dramatiq}\n\n{comparison}")
    return int(not comparison.is_well)


sys.exit(main())
