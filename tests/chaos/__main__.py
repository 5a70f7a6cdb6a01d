"""python -m tests.chaos [--seconds 600] [--seed N] [--world NAME]: see the README beside this file."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.chaos.worlds import WORLDS

#: How the time is divided, if all worlds have their turn.
SHARES = {"neighbours": 0.6, "fleet": 0.2, "failover": 0.2}

#: How much of what is wrong in a world is told.
MOST = 40


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs under all kinds of mischief; prints what came of them.")
    parser.add_argument("--seconds", type=float, default=600, help="how long, in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of what happens")
    parser.add_argument("--world", choices=WORLDS, help="only this one (default: one after the other)")
    parser.add_argument("--logs", type=Path, help="a folder for what workers and producers have said")
    arguments = parser.parse_args()
    shares = {arguments.world: 1.0} if arguments.world else SHARES
    failed = False
    for name, share in shares.items():
        verdict = WORLDS[name](arguments.seed, share * arguments.seconds).run()
        found = [f"WRONG: {wrong}" for wrong in verdict.wrong[:MOST]]
        print(verdict.table(), "", verdict.replayed, *found, "", sep="\n", flush=True)
        if len(verdict.wrong) > MOST:
            print(f"... and {len(verdict.wrong) - MOST} more")
        failed = failed or bool(verdict.wrong)
        if arguments.logs:
            arguments.logs.mkdir(parents=True, exist_ok=True)
            for file, text in verdict.logs.items():
                (arguments.logs / f"{name}-{file}").write_text(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
