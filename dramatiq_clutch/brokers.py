"""What depends on the kind of a broker: its default store, its courier, its application, its risks.

The stores, and Dramatiq's broker for Redis, are imported only where they are needed, because they import redis.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

from dramatiq import Broker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import xq_name

from .backend import ClutchBackend
from .courier import Courier, works_inside
from .errors import NotConfigured

if TYPE_CHECKING:
    from dramatiq.brokers.redis import RedisBroker

#: What the namespace of a `RedisBroker` is followed by in that of its runs.
ENDING = "-clutch"


def backend_of(broker: Broker) -> ClutchBackend:
    """The store for a broker if the user has given none. Raises NotConfigured if the broker has none to offer."""
    if _is_redis(broker):
        from .backends import RedisBackend

        return RedisBackend(client=broker.client, namespace=broker.namespace + ENDING)
    if isinstance(broker, StubBroker):
        from .backends import StubBackend

        return StubBackend()
    raise NotConfigured(
        f"ClutchMiddleware() can't tell where to keep the state of runs: {type(broker).__name__} has no Redis client. "
        'Pass a backend: ClutchMiddleware(RedisBackend(url="redis://..."))'
    )


def check(broker: Broker) -> None:
    """Raises NotConfigured for a broker that is known to ack no message: the end of a job is recorded before its ack.
    Another one of that kind is noticed by its courier."""
    if any(one.__module__.partition(".")[0] == "dramatiq_eager_broker" for one in type(broker).__mro__):
        raise works_inside(broker)


def courier_of(broker: Broker, backend: ClutchBackend) -> Courier:
    """The courier that takes messages to a broker, for runs that are kept in this store."""
    if _is_redis(broker) and _is_of_redis_py(broker.client):
        from .backends import RedisCourier

        return RedisCourier(broker, backend)
    return Courier(broker)


def application_of(broker: Broker) -> str:
    """The default name of a broker's application: what keeps its messages apart from those of other applications on the
    same server. That is a namespace on Redis, and a virtual host on RabbitMQ."""
    if _is_redis(broker):
        return str(broker.namespace)
    parameters: Any = getattr(broker, "parameters", None)  # a RabbitmqBroker has one set of parameters, or a list
    first = parameters[0] if isinstance(parameters, list | tuple) and parameters else parameters
    host = first.get("virtual_host", "") if isinstance(first, dict) else getattr(first, "virtual_host", "")
    return str(host)


def application_in(backend: ClutchBackend) -> str:
    """The name of the application that keeps its runs in this store, if neither its name nor its store is of its own
    choice: then one follows from the other. A store in memory is a `StubBroker`'s, which has no name."""
    module = sys.modules.get("dramatiq_clutch.backends.memory")
    if module is not None and isinstance(backend, module.StubBackend):
        return ""
    return backend.namespace.removesuffix(ENDING)


def warnings_of(broker: Broker) -> Iterator[str]:
    """What puts runs at risk in the settings of a broker."""
    if getattr(broker, "confirm_delivery", None) is False:
        yield (
            f"{type(broker).__name__} publishes without confirmation, so what its server doesn't take is lost. "
            "Create it with confirm_delivery=True"
        )


def warnings_at_boot(broker: Broker) -> Iterator[str]:
    """What puts runs at risk that a worker of this broker is about to do. It logs each text."""
    yield from warnings_of(broker)
    if dead := sorted(queue for queue in broker.get_declared_queues() if queue == xq_name(queue)):
        yield (
            f"{type(broker).__name__} counts {dead[0]!r}, which has dead letters, among the queues that workers listen "
            "on, so what is dead works again by itself. Start the worker before its process sends anything, or have "
            "get_declared_queues() leave such queues out"
        )


def _is_of_redis_py(client: object) -> bool:
    """Whether a client is redis-py's own. Dramatiq also works with one that only has the same methods."""
    return any(one.__module__.partition(".")[0] == "redis" for one in type(client).__mro__)


def _is_redis(broker: Broker) -> TypeGuard[RedisBroker]:
    """Whether a broker is a RedisBroker. Nobody has made one unless its module is imported."""
    module = sys.modules.get("dramatiq.brokers.redis")
    return module is not None and isinstance(broker, module.RedisBroker)
