"""The chaos run in its short form. The long one: python -m tests.chaos"""

from __future__ import annotations

import pytest

from tests.chaos.chaos import Chaos


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_dies_every_run_comes_to_its_end() -> None:
    verdict = Chaos(seed=4, seconds=15).run()
    print(verdict.table())
    assert verdict.wrong == []
    assert sum(verdict.runs.values()) > 20
    assert verdict.events["workers killed (-9)"] > 0
