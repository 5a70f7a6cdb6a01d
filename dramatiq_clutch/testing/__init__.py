"""For the unit tests of clutches, without a server and without waiting: a broker in memory, a fake of the running job,
and a clutch that is run from its beginning to its end. It takes ``pip install "dramatiq-clutch[testing]"``.

In `conftest.py`::

    from dramatiq_clutch.testing import clutch_broker

In a test::

    from dramatiq_clutch.testing import job, run_to_end

    def test_the_report_sums_up(clutch_broker):
        with job(previous_results=[1, 2]):
            assert report() == 3
        assert run_to_end(Clutch().parallel(count.message("a"), count.message("b")).then(report)) == 7

The fixture is imported, and not registered as a plugin: a plugin would be loaded by every pytest that finds this
package, in projects that don't use it, too; and who reads a test couldn't tell where the fixture comes from. Nothing
else here needs pytest: elsewhere ``with stubbed() as broker:`` does what the fixture does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .broker import ClutchBroker, run_to_end, stubbed
from .jobs import FakeJob, job

if TYPE_CHECKING:
    from .fixture import clutch_broker

__all__ = ["ClutchBroker", "FakeJob", "clutch_broker", "job", "run_to_end", "stubbed"]


def __getattr__(name: str) -> Any:
    if name == "clutch_broker":  # it alone needs pytest
        return importlib.import_module(".fixture", __name__).clutch_broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
