"""The log of runs: a line for each transition, once however many processes take part; and none for a job."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import dramatiq
import pytest

from dramatiq_clutch import Clutch, Run, news
from dramatiq_clutch.engine import engine_of
from dramatiq_clutch.failures import failure_details
from dramatiq_clutch.news import News, log
from dramatiq_clutch.remarks import UNTRUE
from dramatiq_clutch.testing import stubbed
from tests.conftest import running_worker
from tests.support.awaiting import wait_until
from tests.support.jobs import Jobs, state_is
from tests.test_map import code_of, lua_files

LOGGER = "dramatiq_clutch.runs"


class Told(logging.Handler):
    """All records of the log of runs."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, run: Run) -> list[str]:
        """The events of a run, each with its stage."""
        return [f"{one.event} {one.stage}" for one in map(as_any, self.records) if one.run_id == run.run_id]

    def lines(self) -> list[str]:
        """All lines, without the times in them."""
        return [re.sub(r"\d+\.\d s", "0.0 s", record.getMessage()) for record in self.records]


def as_any(record: logging.LogRecord) -> Any:
    return record


@pytest.fixture
def told() -> Iterator[Told]:
    handler, logger = Told(), logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


# What a run logs


def test_a_run_that_goes_well_has_a_line_for_each_stage_and_none_for_a_job(jobs: Jobs, told: Told) -> None:
    names = [jobs.job.message(str(number)) for number in range(20)]
    run = Clutch(name="nightly").parallel(*names).then(jobs.job.message("a"), jobs.total).run(run_id="nightly-7")
    with running_worker(jobs.broker):
        run.get_result(block=True)
        wait_until("it is told", lambda: "succeeded 2" in told.of(run))
    assert told.lines() == [
        "Run nightly-7 'nightly' started: stage 0 of 3, 0 of 20 succeeded, 0 dead, 0.0 s after its start",
        "Run nightly-7 'nightly' released stage 1 of 3: 20 of 20 succeeded before it, 0 dead, 0.0 s after its start",
        "Run nightly-7 'nightly' released stage 2 of 3: 1 of 1 succeeded before it, 0 dead, 0.0 s after its start",
        "Run nightly-7 'nightly' succeeded: stage 2 of 3, 1 of 1 succeeded, 0 dead, 0.0 s after its start",
    ]
    assert {record.levelno for record in told.records} == {logging.INFO}


def test_a_run_that_fails_and_is_retried_says_so_and_names_the_dead(jobs: Jobs, told: Told) -> None:
    jobs.script["bad"] = ["fail", "wait and die"]
    run = Clutch().parallel(jobs.job.message("good"), jobs.job.message("bad")).run(run_id="r")
    with running_worker(jobs.broker):
        wait_until(
            "it is told", lambda: "failing 0" in told.of(run)
        )  # the next attempt may be recorded before the first
        jobs.gates["bad"].set()
        state_is(run, "failed")
        wait_until("it is told", lambda: "failed 0" in told.of(run))
        run.retry()
        wait_until("that it is over, too", lambda: "succeeded 0" in told.of(run))
    assert told.of(run) == ["started 0", "failing 0", "dead 0", "failed 0", "retried 0", "succeeded 0"]
    assert told.lines()[1:5] == [
        "Run r failing: stage 0 of 1, 1 of 2 succeeded, 0 dead, 0.0 s after its start",
        "Run r: member 1 of stage 0 of 1 is dead: actor 'job', attempts 2, LookupError: 'bad dies'",
        "Run r failed: stage 0 of 1, 1 of 2 succeeded, 1 dead, 0.0 s after its start",
        "Run r retried: stage 0 of 1, 1 of 2 succeeded, 1 dead, 0.0 s after its start",
    ]
    assert [record.levelno for record in told.records if as_any(record).event == "dead"] == [logging.WARNING]


def test_a_run_that_fails_of_an_error_of_its_own_says_which(told: Told) -> None:
    with stubbed() as broker:
        jobs = Jobs(broker)
        Clutch(deadline=1_000).then(jobs.job.message("late")).run(run_id="late")
        broker.advance(1_000)
        Clutch().then(jobs.job.message("text")).map(jobs.job, name="each").run(run_id="r")
        broker.work()
    late, failed = (one for one in map(as_any, told.records) if one.event == "failed")
    assert told.lines()[1] == (
        "Run late failed: stage 0 of 1, 0 of 1 succeeded, 0 dead, 0.0 s after its start, because of DeadlineExceeded: "
        "'the deadline of the run (1000 ms) was over before stage 0 was complete'"
    )
    assert told.lines()[-1].endswith(
        "'each' of 2, 0 of ? succeeded, 0 dead, 0.0 s after its start, because of "
        "HandOverFailed: \"stage 1 maps over the result of stage 0, which must be a list; it is a str: 'text'\""
    )
    assert (late.exception_type, failed.exception_type) == ("DeadlineExceeded", "HandOverFailed")


def test_a_stage_that_has_a_name_is_told_by_it(jobs: Jobs, told: Told) -> None:
    run = Clutch().then(jobs.job.message("a"), jobs.job.message("b")).then(jobs.total, name="sum up").run(run_id="r")
    with running_worker(jobs.broker):
        run.get_result(block=True)
        wait_until("it is told", lambda: "succeeded 2" in told.of(run))
    assert told.lines()[2:] == [
        "Run r released stage 2 'sum up' of 3: 1 of 1 succeeded before it, 0 dead, 0.0 s after its start",
        "Run r succeeded: stage 2 'sum up' of 3, 1 of 1 succeeded, 0 dead, 0.0 s after its start",
    ]
    assert [as_any(record).stage_name for record in told.records] == [None, None, "sum up", "sum up"]


@pytest.mark.parametrize("verb", ["cancel", "resend"])
def test_whoever_steers_a_run_has_the_line(jobs: Jobs, told: Told, verb: str) -> None:
    run = Clutch().then(jobs.job.message("a")).run()
    assert getattr(run, verb)()
    assert getattr(run, verb)() is (verb == "resend")
    again = {"cancel": [], "resend": ["resent 0"]}[verb]
    assert told.of(run) == ["started 0", {"cancel": "cancelled 0", "resend": "resent 0"}[verb], *again]


def test_a_nested_run_has_lines_of_its_own(jobs: Jobs, told: Told) -> None:
    child = Clutch(name="child").then(jobs.job.message("a"))
    run = Clutch(name="parent").then(child, jobs.total).run()
    with running_worker(jobs.broker):
        run.get_result(block=True)
        wait_until("it is told", lambda: "succeeded 1" in told.of(run))
    assert told.of(Run(f"{run.run_id}~0.0")) == ["started 0", "succeeded 0"]
    assert told.of(run) == ["started 0", "released 1", "succeeded 1"]


def test_a_run_that_a_sweeper_takes_further_has_its_lines_too(jobs: Jobs, told: Told) -> None:
    """Whoever causes the transition logs it: here an empty stage is complete for whoever looks."""
    run = Clutch().parallel().then(jobs.job.message("a")).run()
    with running_worker(jobs.broker):
        run.get_result(block=True)
        wait_until("it is told", lambda: "succeeded 1" in told.of(run))
    assert told.of(run) == ["started 0", "released 1", "succeeded 1"]


# The lines


def test_every_event_that_the_scripts_report_has_a_row_in_the_docstring() -> None:
    code = "\n".join(code_of(path) for path in lua_files().values())
    reported = set(re.findall(r"\breport\('(\w+)'", code)) | set(re.findall(r"\brest\('(\w+)'", code))
    rows = re.findall(r"^\| (`.*?) \| (?:INFO|WARNING)", news.__doc__ or "", re.MULTILINE)
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == reported


def test_an_event_of_another_word_has_a_line_too(told: Told) -> None:
    log("r", [News("postponed", "", 1_000, 2, 1, "3 ? pm", 0, 0)], 3_500)
    (record,) = map(as_any, told.records)
    assert record.getMessage() == "Run r postponed: stage 1 of 2, 0 of ? succeeded, 0 dead, 2.5 s after its start"
    assert (record.total, record.seconds) == (None, 2.5)


@pytest.mark.parametrize(
    "text",
    ["a\nERROR forged", "\x1b[31mred", "a\r\x00b", "a\u2028b", "a\x85b", "lone \ud800", "%s %d {0}", "x" * 5_000],
)
def test_whatever_comes_from_a_job_stays_on_its_line(told: Told, text: str) -> None:
    stream = io.StringIO()
    written = logging.StreamHandler(stream)
    logging.getLogger(LOGGER).addHandler(written)
    failure = json.dumps({**json.loads(failure_details(ValueError(text), actor=text)), "type": text})
    log(text, [News("dead", text, 0, 1, 0, "0 1 -", member=0, failure=failure)], 0)
    log(text, [News(text, text, 0, 1, 0, "0 1 -")], 0)
    logging.getLogger(LOGGER).removeHandler(written)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 1_200 for line in lines)
    assert [(as_any(one).run_id, as_any(one).run_name) for one in told.records] == [(text, text)] * 2
    assert as_any(told.records[0]).exception_text == text[:1_000]


def test_a_line_that_cannot_be_read_or_a_clock_that_is_behind_raises_nothing(told: Told) -> None:
    log("r", [News("cancelled", "", 5_000, 1, 0, "damaged")], 1_000)
    log("r", [News("dead", "", 0, 1, 0, "0 1 -", member=0, failure="damaged")], 0)
    assert [as_any(one).seconds for one in told.records] == [0.0, 0.0]
    assert "details that can't be read" in told.records[1].getMessage()


def test_where_the_level_is_off_nothing_is_computed(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    def compute(*_: Any) -> Any:
        raise AssertionError("it was computed")

    monkeypatch.setattr(news, "_about", compute)
    logging.getLogger(LOGGER).setLevel(logging.WARNING)
    log("r", [News("started")], 0)
    with pytest.raises(AssertionError):
        log("r", [News("dead")], 0)
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    log("r", [News("dead")], 0)
    assert told.records == []


def test_what_a_job_says_of_itself_in_its_name_and_error_is_quoted_in_a_whole_run(
    broker: dramatiq.Broker, told: Told
) -> None:
    @dramatiq.actor(max_retries=0)
    def job() -> None:
        raise ValueError("one\nERROR two")

    run = Clutch(name="a\nb").then(job).run()
    with running_worker(broker):
        state_is(run, "failed")
        wait_until("it is told", lambda: "failed 0" in told.of(run))
    assert engine_of(broker).backend.snapshot(run.run_id)
    assert [line.splitlines() for line in told.lines()] == [[line] for line in told.lines()]
    assert r"'a\nb': member 0 of stage 0 of 1 is dead: actor 'job', attempts 1, ValueError: 'one\nERROR two'" in str(
        told.lines()[-2]
    )


# What Dramatiq's own log says


def of_failed_attempts(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [one for one in map(as_any, caplog.records) if one.getMessage().startswith("Failed to process message")]


def test_dramatiqs_line_of_a_failed_attempt_says_which_run_it_was(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    jobs.script["bad"] = ["fail", "die"]
    run = Clutch().then(jobs.job.message("good")).parallel(jobs.job.message("other"), jobs.job.message("bad")).run()
    with caplog.at_level(logging.INFO), running_worker(jobs.broker):
        state_is(run, "failed")
    first, second = of_failed_attempts(caplog)
    place = f" [run {run.run_id}, stage 1, member 1]"
    assert first.getMessage() == f"Failed to process message job('bad') with unhandled exception.{place}"
    assert first.exc_info[0] is ValueError
    assert second.getMessage() == f"Failed to process message job('bad') with expected exception LookupError.{place}"
    assert [(one.run_id, one.stage, one.member) for one in (first, second)] == [(run.run_id, 1, 1)] * 2


def test_of_a_callback_it_says_which_one_and_of_other_messages_what_it_always_did(
    broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    @dramatiq.actor(max_retries=0)
    def plain(number: int) -> None:
        raise ValueError(number)

    @dramatiq.actor(max_retries=0)
    def heard(status: dict[str, Any]) -> None:
        raise ValueError(status["event"])

    @dramatiq.actor
    def job() -> None: ...

    with running_worker(broker):
        plain.send(1)
        wait_until("the plain message has failed", lambda: len(of_failed_attempts(caplog)) == 1)
        run = Clutch(on_success=heard).then(job).run()
        wait_until("the callback has failed", lambda: len(of_failed_attempts(caplog)) == 2)
    of_plain, of_callback = of_failed_attempts(caplog)
    assert of_plain.getMessage() == "Failed to process message plain(1) with unhandled exception."
    assert not hasattr(of_plain, "run_id")
    assert of_callback.getMessage().endswith(f"with unhandled exception. [run {run.run_id}, callback on_success:0:1]")


def test_dramatiqs_warning_of_a_value_that_is_discarded_is_dropped_for_jobs_and_for_nothing_else(
    redis_broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The line still says which of Dramatiq's own lines has logged it, and whoever replaces the method hears of it."""

    @dramatiq.actor
    def job(number: int) -> int:
        return number

    run = Clutch().then(job.message(1)).then(job.message(2)).run()
    with running_worker(redis_broker, threads=1):
        assert run.get_result(block=True) == 2
        job.send(3)
        wait_until("it has warned", lambda: UNTRUE in caplog.text)
        with patch("logging.Logger.warning") as warning:
            job.send(4)
            wait_until("it is told", lambda: warning.called)
    assert UNTRUE in warning.call_args.args[0]
    (warned,) = [one for one in caplog.records if UNTRUE in one.getMessage()]
    assert (warned.name, warned.module) == ("dramatiq.worker.WorkerThread", "worker")
