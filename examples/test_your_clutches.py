"""How you test your own clutches: without a server, and without waiting for retries and delays.

    pytest examples/test_your_clutches.py

The first half is an application, which would be in modules of its own. The second half is its tests.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch import (
    Clutch,
    ClutchMiddleware,
    Run,
    RunFailed,
    current_run,
    previous_failures,
    previous_results,
)
from dramatiq_clutch.testing import ClutchBroker, clutch_broker, job, run_to_end  # mostly in conftest.py

__all__ = ["clutch_broker"]  # pytest finds the fixture by its name

# The application. Its broker is a real one, to which no test connects.

broker = RedisBroker()
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)


def ask(shop: str) -> int:
    """Ask a shop over the network what it has sold."""
    raise ConnectionError("there is no network in a test")


def send_mail(text: str) -> None:
    raise ConnectionError("there is no network in a test")


@dramatiq.actor(max_retries=3)  # waits for 15 seconds and more between two attempts
def load(shop: str) -> int:
    return ask(shop)


@dramatiq.actor
def report() -> dict[str, Any]:
    sales = [sold for sold in previous_results() if sold is not None]
    return {"sold": sum(sales), "missing": [failure.exception_text for failure in previous_failures()]}


@dramatiq.actor
async def label() -> str:
    run = current_run()
    return f"report of {run.run_id}" if run else "a report"


@dramatiq.actor
def load_region(region: str, shops: list[str]) -> Run:
    """A job that finds out what is to be done, and nests it."""
    return Clutch(name=region).parallel([load.message(shop) for shop in shops]).then(report).nest()


@dramatiq.actor
def alert(status: dict[str, Any]) -> None:
    send_mail(f"{status['event']}: {status['failures'][0]['exception_text']}")


SALES = Clutch(on_failure=alert).parallel(load.message("north"), load.message("south")).then(report)


# The tests of single jobs: an actor is called like a function, in a `job`.


def test_the_report_adds_up() -> None:
    with job(previous_results=[3, 4]):
        assert report() == {"sold": 7, "missing": []}


def test_the_report_says_what_is_missing() -> None:
    """An exception stands for a dead member of a stage with `allow_failures`."""
    with job(previous_results=[3, ConnectionError("the south is closed")]):
        assert report() == {"sold": 3, "missing": ["the south is closed"]}


def test_a_label_names_the_run() -> None:
    """An async actor is called in the same way."""
    with job(run_id="november"):
        assert label() == "report of november"


def test_a_region_is_loaded_by_its_shops() -> None:
    with job() as played:
        load_region("islands", ["east", "west"])
    shops = [load.message("east"), load.message("west")]
    assert played.nested == [Clutch(name="islands").parallel(shops).then(report)]


# The tests of whole clutches: the fixture lets all actors work on a broker in memory.


def test_the_sales_of_all_shops_are_added_up(clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ask", len)
    assert run_to_end(SALES) == {"sold": 10, "missing": []}


def test_a_shop_that_answers_late_is_asked_again(clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries take no time here."""
    asked = list[str]()

    def busy(shop: str) -> int:
        asked.append(shop)
        if len(asked) < 3:
            raise ConnectionError("busy")
        return 5

    monkeypatch.setattr(f"{__name__}.ask", busy)
    assert run_to_end(Clutch().then(load.message("north"))) == 5
    assert asked == ["north"] * 3


def test_who_is_told_of_a_shop_that_is_closed(clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    mails = list[str]()
    monkeypatch.setattr(f"{__name__}.send_mail", mails.append)
    with pytest.raises(RunFailed) as failed:
        run_to_end(SALES)
    assert mails == ["on_failure: there is no network in a test"]
    assert isinstance(failed.value.__cause__, ConnectionError)  # with the traceback of the job


def test_a_reminder_is_sent_after_a_day(clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ask", len)
    run = Clutch().then(load.message("north")).run(delay=timedelta(days=1))

    clutch_broker.work()
    assert run.status().state == "running"

    clutch_broker.advance(timedelta(days=1))
    clutch_broker.work()
    assert run.get_result() == 5


def test_regions_are_reported_by_runs_that_their_jobs_nest(
    clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.ask", len)
    regions = Clutch().parallel(load_region.message("islands", ["east", "west"]), load_region.message("coast", ["bay"]))
    assert run_to_end(regions) == [{"sold": 8, "missing": []}, {"sold": 3, "missing": []}]


def test_a_run_that_has_failed_is_taken_up_again(clutch_broker: ClutchBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.send_mail", print)
    run = SALES.run()
    with pytest.raises(RunFailed):
        run_to_end(run)
    monkeypatch.setattr(f"{__name__}.ask", len)
    assert run.retry()
    assert run_to_end(run) == {"sold": 10, "missing": []}
