"""Sentry's own integration for Dramatiq, and what it takes to have all stages of a run in one trace. With the real SDK,
whose envelopes are kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dramatiq import DramatiqIntegration
from sentry_sdk.transport import Transport

from dramatiq_clutch import Clutch, Run
from tests.conftest import running_worker
from tests.support.application import application
from tests.support.awaiting import wait_until


class Kept(Transport):
    """Sends nothing, and keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def traces(self) -> dict[str, set[str]]:
        """The traces that there are spans in, by the names of actors."""
        found: dict[str, set[str]] = {}
        for envelope in self.envelopes:
            event: Any = envelope.get_transaction_event()
            if event is not None:
                found.setdefault(event["transaction"], set()).add(event["contexts"]["trace"]["trace_id"])
        return found


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Sentry is set up; afterwards it isn't any more. It has patched `Broker.__init__`, which does nothing then."""
    transport = Kept()
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=transport,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[DramatiqIntegration()],
        traces_sample_rate=1.0,
        release="tests",  # it would ask git otherwise
        enable_backpressure_handling=False,
        send_client_reports=False,
        auto_session_tracking=False,
    )
    yield transport
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.parametrize("where", ["redis", "stub"])
def test_all_stages_are_in_one_trace_of_sentry_with_carry(
    kept: Kept, where: str, request: pytest.FixtureRequest
) -> None:
    client: redis.Redis | None = request.getfixturevalue("redis_client") if where == "redis" else None
    names = {"request", "first", "second", "nests", "inside", "told"}
    for carry in (["_sentry_headers"], []):
        kept.envelopes.clear()
        with application(client, carry=carry) as app:

            @dramatiq.actor(broker=app.broker)
            def first(*items: Any) -> None: ...

            @dramatiq.actor(broker=app.broker)
            def second(*items: Any) -> None: ...

            @dramatiq.actor(broker=app.broker)
            def nests(*items: Any) -> Run:
                return Clutch().then(inside.message()).nest()

            @dramatiq.actor(broker=app.broker)
            def inside(*items: Any) -> None: ...

            @dramatiq.actor(broker=app.broker)
            def told(status: Any) -> None: ...

            clutch = Clutch(on_success=told).then(first.message()).parallel(second.message(), nests.message())
            with sentry_sdk.start_transaction(name="request") as transaction:
                clutch.run()
            with running_worker(app.broker):
                wait_until("all transactions", lambda: kept.traces().keys() == names)
        whole = {name for name, found in kept.traces().items() if found == {transaction.trace_id}}
        # Without it, whatever is sent once a job has ended is in a trace of its own.
        assert whole == (names if carry else {"request", "first"})
