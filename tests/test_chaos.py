"""The chaos run in its short form. The long one: python -m tests.chaos"""

from __future__ import annotations

import pytest

from dramatiq_clutch.stored.formats import FORMAT
from tests.chaos.actors import SHAPES
from tests.chaos.verdict import Verdict
from tests.chaos.world import World
from tests.chaos.worlds import Failover, MixedFleet, Neighbours

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def verdict_of(world: World) -> Verdict:
    verdict = world.run()
    print(verdict.table(), verdict.replayed, sep="\n\n")
    assert verdict.wrong == []
    assert verdict.replayed.transitions > 0
    assert verdict.replayed.compared > 0
    assert set(verdict.runs) == set(SHAPES)
    return verdict


def test_whatever_dies_or_answers_nonsense_every_run_of_two_applications_comes_to_its_end() -> None:
    verdict = verdict_of(Neighbours(seed=4, seconds=12))
    assert verdict.events["workers killed (-9)"] > 0
    assert verdict.events["calls answered with strange errors, or cut off"] > 0


def test_in_a_fleet_of_two_releases_every_run_comes_to_its_end() -> None:
    verdict = verdict_of(MixedFleet(seed=4, seconds=5))
    assert verdict.events["times without a newer worker"] > 0  # each is a kill
    assert verdict.formats["older", FORMAT] > 0
    assert verdict.formats["newer", FORMAT + 1] > 0


def test_when_the_state_store_fails_over_a_second_back_every_run_comes_to_its_end() -> None:
    verdict = verdict_of(Failover(seed=4, seconds=6))
    assert verdict.events["failovers, a second back"] > 0
