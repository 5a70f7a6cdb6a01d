"""The pytest fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .broker import ClutchBroker, stubbed


@pytest.fixture
def clutch_broker() -> Iterator[ClutchBroker]:
    """A `ClutchBroker`, new for each test, which all actors of the global broker use as long as the test lasts. For
    example::

        def test_a_delayed_run(clutch_broker):
            run = Clutch().then(remind).run(delay=60_000)
            clutch_broker.work()
            assert run.status().stages[0].succeeded == 0
            clutch_broker.advance(60_000)
            clutch_broker.work()
            assert run.get_result() == "reminded"
    """
    with stubbed() as broker:
        yield broker
