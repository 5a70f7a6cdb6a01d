"""A broker that has a state store and nothing else: for who looks at runs and steers them without the application."""

from __future__ import annotations

from typing import Any

from dramatiq import Broker, Message

from .backend import ClutchBackend
from .brokers import application_in
from .courier import Courier
from .engine import DETACHED_LEASE, Engine, EngineMiddleware
from .errors import NotConfigured

#: For how long runs are kept as far as this broker is concerned, in milliseconds: ten years. It doesn't know the
#: settings of the application, whose workers let go of what is older.
NO_LIMIT = 3_650 * 86_400_000


def detached(backend: ClutchBackend, *, application: str | None = None) -> Broker:
    """A broker for looking at runs and steering them where the application can't be imported: its state store is
    enough. For example::

        broker = detached(RedisBackend(url="redis://localhost:6379/0", namespace="dramatiq-clutch"))
        for run in runs(broker=broker, state="failed"):
            Run(run.run_id, broker=broker).retry()

    It knows no actors and sends no messages. What a `cancel()`, `retry()` or `resend()` by it changes is stored in one
    step, as ever; what follows from that, such as the jobs to be sent again, is left to the sweeper of a worker of the
    application, which hears of it at once. If there is no worker, it is done when one comes. A `delete()` first waits a
    while for workers to do what the run still owes.

    Parameters:
      backend: the store in which the application keeps its runs.
      application: the name of the application. Default is that of an application with a `RedisBroker` which keeps its
        runs where `ClutchMiddleware()` keeps them by itself: the store's namespace without its ending ``-clutch``.

    Raises TypeError for a `backend` that isn't one.
    """
    given: Any = backend
    if not isinstance(given, ClutchBackend):  # it isn't shown, because an address may have a password
        raise TypeError(
            f"detached() takes the backend of a ClutchMiddleware, not a value of type {type(given).__name__}"
        )
    return DetachedBroker(backend, application_in(backend) if application is None else application)


class DetachedBroker(Broker):
    """What `detached` gives."""

    def __init__(self, backend: ClutchBackend, application: str) -> None:
        super().__init__(middleware=[DetachedMiddleware(backend, application)])

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:  # noqa: ARG002
        """Raises NotConfigured."""
        raise NotConfigured(
            f"message {message.message_id} can't be sent by a detached broker, which only has the state store: use the "
            "application's own broker"
        )


class DetachedMiddleware(EngineMiddleware):
    """Gives a detached broker its engine."""

    def __init__(self, backend: ClutchBackend, application: str) -> None:
        self._backend, self._application = backend, application
        self._made: Engine | None = None

    def _engine(self, broker: Broker) -> Engine:
        if self._made is None:
            self._made = Engine(
                broker,
                self._backend,
                Courier(broker),
                run_ttl=NO_LIMIT,
                result_ttl=NO_LIMIT,
                history_ttl=NO_LIMIT,
                history_max=10**9,
                lease_ms=DETACHED_LEASE,
                application=self._application,
                is_detached=True,
            )
        return self._made
