"""Every interleaving of small worlds, within bounds that take a few seconds; and faults that such a search finds."""

from __future__ import annotations

import pytest

from .faults import FAULTS, Fault
from .search import Explorer, Outcome
from .worlds import ONCE_LOST, WORLDS, Bounds, World

#: Worlds that the quick tier explores: those that take no more than a moment, and have most kinds of steps.
QUICK = {"two stages", "cancel", "limit"}


def small_search(world: World) -> Outcome:
    assert world.smoke is not None
    return Explorer(world, world.smoke).explore()


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(world, id=name, marks=() if name in QUICK else pytest.mark.search)
        for name, world in WORLDS.items()
        if world.smoke is not None
    ],
)
def test_every_history_of_a_small_world_comes_to_the_right_rest(world: World) -> None:
    found = small_search(world)

    assert found.violation is None, f"\n{found.violation}"
    assert found.rests


@pytest.mark.search
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_small_search_finds_a_planted_fault(fault: Fault) -> None:
    with fault.planted():
        found = Explorer(WORLDS[fault.world], fault.bounds).explore()

    assert found.violation is not None


@pytest.mark.parametrize(
    ("bounds", "probes"),
    [
        (
            Bounds(workers=1, kills=1),
            {"guard says done", "guard says over", "a duty was taken over", "time had to pass"},
        ),
        pytest.param(
            Bounds(workers=1, lapses=1),
            {"confirm says lost", "a message was sent twice", "a message says repeated"},
            marks=pytest.mark.search,
        ),
        pytest.param(
            Bounds(workers=1, lost=1),
            {"record says duplicate", "record says over", "owed says owing"},
            marks=pytest.mark.search,
        ),
        pytest.param(Bounds(doubles=1), {"record says duplicate", "guard says done"}, marks=pytest.mark.search),
    ],
    ids=["a kill", "a lapse of all leases", "a lost reply", "a second delivery"],
)
def test_a_fault_of_the_surroundings_leads_where_it_may(bounds: Bounds, probes: set[str]) -> None:
    found = Explorer(WORLDS["two stages"], bounds).explore()

    assert probes <= found.probes


def test_a_search_visits_the_same_states_each_time() -> None:
    world = WORLDS["two stages"]

    first, second = (Explorer(world, Bounds(workers=1, kills=1)).explore() for _ in range(2))

    assert (first.states, first.transitions, first.deepest) == (second.states, second.transitions, second.deepest)


@pytest.mark.search
@pytest.mark.parametrize("world", ONCE_LOST, ids=[world.name for world in ONCE_LOST])
def test_a_run_whose_index_entry_is_removed_while_it_begins_to_work_comes_to_rest(world: World) -> None:
    found = small_search(world)

    assert found.violation is None, f"\n{found.violation}"
