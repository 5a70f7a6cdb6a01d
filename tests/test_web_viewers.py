"""The page of runs with as many viewers as come, each with a connection of its own, among as many runs as there are."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import Clutch, Run
from dramatiq_clutch.backend import Record
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.stored import owners
from dramatiq_clutch.stored.places import Tag
from dramatiq_clutch.web import app, feeds, pages
from tests.support.awaiting import wait_until
from tests.support.browser import served
from tests.support.commands import executed
from tests.support.jobs import Jobs
from tests.support.viewers import Viewer, all_see, viewing
from tests.test_listing import fill

#: How many runs there are, and how many viewers.
RUNS, VIEWERS = 100_000, 200

#: How many members the run at work has, and how often something changes.
MEMBERS, CHANGES = 20, 10

#: How often a feed looks here, in seconds.
LOOK_AGAIN = 0.1

#: The addresses of what is viewed: a list, and a run.
PATHS = ("/events", "/run-events?id=busy")


class Looks:
    """Counts looks, each of which is then alone at the server, and what commands each has cost."""

    def __init__(self, client: Any, patch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self.cost: Counter[str] = Counter()
        for name in ("list_view", "run_view"):
            patch.setattr(pages, name, self.counted(name, getattr(pages, name)))

    def counted(self, name: str, look: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            with self.lock:
                self.counts[name] += 1
                return self.costing(look, *arguments)

        return counting

    def costing(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Do something, and count what it costs."""
        with self.lock:
            before = executed(self.client)
            try:
                return act(*arguments)
            finally:
                self.cost += executed(self.client) - before


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[feeds.Feed]:
    """The feeds that there have been."""
    made: list[feeds.Feed] = []

    class Known(feeds.Feed):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(feeds, "Feed", Known)
    monkeypatch.setattr(feeds, "LOOK_AGAIN", LOOK_AGAIN)
    return made


def done_of(html: str) -> str:
    """How many members of the run at work a page says are done."""
    found = re.search(rf'class="number">(\d+)</span> of <span class="number">{MEMBERS}</span> (?:done|succeeded)', html)
    assert found is not None, html
    return found[1]


def finish(broker: RedisBroker, run: Run, member: int) -> None:
    """Record a success, as a worker does."""
    engine = engine_of(broker)
    tag = Tag(run.run_id, 0, member, MEMBERS, generation=engine.backend.generation(run.run_id) or "")
    engine.backend.record(Record(tag, 0, "succeeded", engine.backend.encode(member)), engine.caller(owners.TOUCH))


@pytest.mark.heavy
def test_one_look_serves_200_viewers_each_of_whom_has_every_change(
    redis_broker: RedisBroker, followed: list[feeds.Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(redis_broker)
    fill(jobs, RUNS)
    run = Clutch(name="busy").parallel([jobs.job.message(str(number)) for number in range(MEMBERS)]).run(run_id="busy")
    looks = Looks(redis_broker.client, monkeypatch)
    with served(app(redis_broker)) as address:
        began, before = time.monotonic(), executed(redis_broker.client)
        with viewing(address, [PATHS[number % 2] for number in range(VIEWERS)], done_of) as those:
            all_see(those, "0")
            for done in range(1, CHANGES + 1):
                looks.costing(finish, redis_broker, run, done)
                wait_until("somebody on each page to see it", partial(is_seen, those, str(done)))
            all_see(those, str(CHANGES))
            with looks.lock:  # so that nobody looks just now
                lasted, spent = time.monotonic() - began, executed(redis_broker.client) - before
                cost, counts = looks.cost.copy(), looks.counts.copy()
        wait_until("nobody to look any more", lambda: all(feed.task and feed.task.done() for feed in followed))
    assert len(followed) == len(PATHS)
    assert [feed.viewers for feed in followed] == [0, 0]
    assert spent == cost  # whoever comes, and stays, costs nothing
    assert max(counts.values()) <= lasted / LOOK_AGAIN + 1  # as many as one viewer causes
    for one in those:
        states = [int(state) for state in one.seen]
        assert states == sorted(set(states))
        # A change is made as soon as somebody has seen the one before, so that one may be missed, and not two.
        assert max(late - early for early, late in itertools.pairwise(states)) <= 2


def is_seen(viewers: list[Viewer], state: str) -> bool:
    """Whether somebody on each page has seen a state."""
    return {viewer.path for viewer in viewers if viewer.seen[-1] == state} == set(PATHS)
