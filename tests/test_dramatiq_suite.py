"""Dramatiq's own tests pass with the middleware as they pass without it. All of them are compared by
`python -m tests.dramatiq_suite`, which takes minutes. Here is a part, and whether a difference would be noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dramatiq_suite.comparison import compare
from tests.dramatiq_suite.suite import NoSuite, Suite, installed

pytestmark = pytest.mark.process

#: What a worker does on Redis that the middleware has a hand in.
PART = "retry_on_connection_error or sent_messages or requeued or requeues or race_condition or join"

SAME = "tests/test_some.py::test_a_broker_takes_messages"
OTHER = "tests/test_some.py::test_a_broker_has_no_more_middleware_than_dramatiq_gives_it"
NEITHER = "tests/test_some.py::test_what_never_passes"

SOME = """
import dramatiq

def test_a_broker_takes_messages(redis_broker, redis_worker):
    took = []

    @dramatiq.actor
    def take(what):
        took.append(what)

    take.send("a")
    redis_broker.join(take.queue_name)
    redis_worker.join()
    assert took == ["a"]

def test_a_broker_has_no_more_middleware_than_dramatiq_gives_it(stub_broker):
    assert all(type(known).__module__.startswith("dramatiq.") for known in stub_broker.middleware)

def test_what_never_passes(rate_limiter_backend):
    assert False

def test_what_needs_rabbitmq(rabbitmq_broker):
    assert False
"""


def test_a_test_that_passes_without_the_middleware_alone_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.dramatiq_suite.comparison.REPEATED", 1)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(SOME)
    found = compare(Suite.prepared(tmp_path))
    assert found.brokers == 2
    assert found.without[SAME] == found.with_middleware[SAME] == "passed"
    assert found.worse == found.broken == [OTHER]
    assert found.repeated == {OTHER: (1, 0)}
    assert not found.is_well
    assert f"{NEITHER}[redis] fails either way" in str(found)
    assert list(found.without.values()).count("skipped") == 1


def test_what_dramatiq_says_of_its_workers_on_redis_is_true_with_the_middleware(tmp_path: Path) -> None:
    try:
        suite = Suite.of(installed(), tmp_path)
    except NoSuite as error:
        pytest.skip(f"Dramatiq's tests can't be had: {error}")
    found = compare(suite, "tests/test_redis.py", "-k", PART)
    assert found.is_well, str(found)
    assert len(found.without) >= 8
