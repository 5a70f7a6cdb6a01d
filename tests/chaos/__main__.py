"""python -m tests.chaos [--seconds 600] [--seed N]: see `chaos.py`."""

from __future__ import annotations

import argparse
import random
import sys

from tests.chaos.chaos import Chaos


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs under kill -9, pauses and outages; prints what came of them.")
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of what happens")
    parser.add_argument("--workers", type=int, default=3, help="how many worker processes (default: %(default)s)")
    arguments = parser.parse_args()
    verdict = Chaos(arguments.seed, arguments.seconds, workers=arguments.workers).run()
    print(verdict.table())
    for wrong in verdict.wrong:
        print("WRONG:", wrong)
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
