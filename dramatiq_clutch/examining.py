"""Examines what runs depend on: the server of the state store, the broker, the workers, and runs that are stuck."""

from __future__ import annotations

from collections.abc import Iterator

from dramatiq import Broker, get_broker

from .backend import SWEEP
from .brokers import warnings_of
from .engine import Engine, engine_of
from .errors import BrokerUnavailable, StateUnavailable
from .findings import Finding
from .listing import count_runs, runs
from .stored.owners import SWEEPER
from .stored.places import NOBODY

#: How many stalled runs are named, at most.
MOST_NAMED = 5

#: A run that has been due for a sweeper for so many milliseconds has none.
OVERDUE = 120_000

#: How many seconds it is waited until the server lets somebody listen.
PATIENCE = 1.0

#: The order in which findings are told.
ORDER = ("error", "warning", "info")


def examine(broker: Broker | None = None) -> list[Finding]:
    """Examine what the runs of this application depend on, the most serious first: whether the server of the state
    store is fit for it (its version, whether it evicts keys, what a restart leaves, what it allows), what the broker's
    settings put at risk, whether anybody sweeps, and which runs are stalled. It changes nothing. For example::

        for finding in examine():
            print(f"{finding.severity}: {finding.text}. {finding.way_out}")

    What the server doesn't let its user ask is an `info`. That the state store can't be used is an `error`, and nothing
    is looked at after that.

    Raises NotConfigured for a broker that isn't ready for clutches.
    """
    engine = engine_of(broker or get_broker())
    found = list[Finding]()
    try:
        for look in (_store, _broker, _workers, _runs):
            found += look(engine)
    except StateUnavailable as error:
        found.append(
            Finding(
                "error",
                f"The state store can't be used: {error}",
                "See that its server runs, that this is its address, and that the user may do what is needed",
            )
        )
    return sorted(found, key=lambda finding: ORDER.index(finding.severity))


def _store(engine: Engine) -> Iterator[Finding]:
    backend = engine.backend
    backend.sweep(NOBODY, engine.caller(SWEEPER), stalled_after=engine.stalled_after)  # whether scripts may run
    yield from backend.fitness()
    listener = backend.listen()
    try:
        listener.add([SWEEP])
        listener.hear(PATIENCE)
        if listener.is_deaf:
            yield Finding(
                "warning",
                "The state store's server lets nobody listen, so who waits for a result has to ask again and again",
                "Allow its user PUBLISH, SUBSCRIBE and UNSUBSCRIBE on the channels of the namespace",
            )
    finally:
        listener.close()


def _broker(engine: Engine) -> Iterator[Finding]:
    if engine.is_detached:
        yield Finding("info", "The broker wasn't looked at: only the state store is known here")
        return
    for text in warnings_of(engine.broker):
        what, _, way_out = text.partition(". ")
        yield Finding("warning", what, way_out)
    if getattr(engine.broker, "maintenance_chance", None) == 0:
        yield Finding(
            "warning",
            "The broker's maintenance_chance is 0, so what dead workers have left unacked is only redelivered by the "
            "sweepers of living ones",
            "Leave maintenance_chance as it is by default",
        )


def _workers(engine: Engine) -> Iterator[Finding]:
    """Workers tell of themselves once in their sweep_interval, so one that has just begun isn't known yet."""
    known = engine.backend.attending(engine.now(), application=engine.application)
    if known:
        queues = sorted({queue for worker in known for queue in worker.queues})
        names = sorted({worker.name for worker in known})
        more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        text = (
            f"Workers with ClutchMiddleware: {', '.join(names[:MOST_NAMED])}{more}; on the queues {', '.join(queues)}"
        )
        yield Finding("info", text)
    else:
        yield Finding(
            "warning",
            "No worker with ClutchMiddleware has told of itself, as each does once in its sweep_interval",
            "Start workers, and see that they have the middleware, and a sweep_interval",
        )
    try:
        holders = engine.courier.unknown_holders({worker.broker for worker in known})
    except BrokerUnavailable as error:
        yield Finding("error", f"The broker can't be used: {error}", "See that its server runs")
        return
    for broker_id, held in sorted(holders.items())[:MOST_NAMED]:
        yield Finding(
            "warning",
            f"A worker without ClutchMiddleware, or one that has just begun, holds messages of the queues "
            f"{', '.join(held)} (its broker's id is {broker_id}); what it does of clutches isn't recorded",
            "Add ClutchMiddleware to the broker of every worker that listens to these queues",
        )


def _runs(engine: Engine) -> Iterator[Finding]:
    counts = count_runs(engine.broker)
    at_work = counts["running"] + counts["failing"]
    yield Finding("info", f"Runs at work: {at_work:,}; failed: {counts['failed']:,}; stalled: {counts['stalled']:,}")
    stalled = runs(broker=engine.broker, state="stalled", limit=MOST_NAMED) if counts["stalled"] else ()
    if stalled:
        named = ", ".join(run.run_id for run in stalled)
        yield Finding(
            "error",
            f"Runs are stalled, such as {named}: nothing has happened to them for long",
            "See that workers listen to the queues of their jobs; if messages were lost, resend() these runs",
        )
    late = engine.backend.count_due(engine.now() - OVERDUE, application=engine.application)
    if late:
        yield Finding(
            "error",
            f"Nobody sweeps: {late:,} runs have been waiting for a sweeper for more than {OVERDUE // 1_000} s",
            "See that a worker with ClutchMiddleware runs, and that its sweep_interval isn't None",
        )
