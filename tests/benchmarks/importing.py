"""What `import dramatiq_clutch` takes beyond Dramatiq's own import, in processor time, user and system. Each figure is
that of a whole process; they take turns, in either order, and what they import is compiled beforehand.

python -m tests.benchmarks.importing --processes 15
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from statistics import median

STUB_BROKER = "import dramatiq.brokers.stub"

#: What is compared, from less to more.
PROGRAMS = {
    "`import dramatiq`, and its `StubBroker`": STUB_BROKER,
    "`import dramatiq_clutch`, too": f"{STUB_BROKER}, dramatiq_clutch",
    "… and `StubBackend`, which imports lupa": f"{STUB_BROKER}; from dramatiq_clutch import StubBackend",
    "… or `RedisBackend`, which imports redis": f"{STUB_BROKER}; from dramatiq_clutch import RedisBackend",
}


def taken(program: str, compiled: str) -> float:
    """The processor time of a process that does nothing else, in milliseconds."""
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    process = subprocess.Popen([sys.executable, "-c", program], env=environ)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return (usage.ru_utime + usage.ru_stime) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.importing", description=__doc__)
    parser.add_argument("--processes", type=int, default=15, help="how many of each")
    processes = parser.parse_args().processes
    figures: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as compiled:
        for turn in range(-1, processes):
            for name in list(PROGRAMS)[:: -1 if turn % 2 else 1]:
                figure = taken(PROGRAMS[name], compiled)
                if turn >= 0:  # the first turn compiles
                    figures[name].append(figure)
    least = median(next(iter(figures.values())))
    print("| processor time, user and system | median | of | beyond Dramatiq's own |\n| --- | --- | --- | --- |")
    for name, found in figures.items():
        spread = f"{min(found):.0f} to {max(found):.0f} ms"
        print(f"| {name} | {median(found):.0f} ms | {spread} | {median(found) - least:.0f} ms |")


if __name__ == "__main__":
    main()
