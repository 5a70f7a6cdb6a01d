"""What is done by the kind of a broker: where its runs are kept, how messages get to it, whose runs they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from .backend import ClutchBackend
from .backends import RedisBackend, RedisCourier, StubBackend
from .courier import Courier
from .errors import NotConfigured


def backend_of(broker: Broker) -> ClutchBackend:
    """Where the state of runs is kept if nobody has said so. Raises NotConfigured."""
    if isinstance(broker, RedisBroker):
        return RedisBackend(client=broker.client, namespace=f"{broker.namespace}-clutch")
    if isinstance(broker, StubBroker):
        return StubBackend()
    raise NotConfigured(
        f"ClutchMiddleware() can't tell where to keep the state of runs: {type(broker).__name__} has no Redis client. "
        'Pass a backend: ClutchMiddleware(RedisBackend(url="redis://..."))'
    )


def courier_of(broker: Broker, backend: ClutchBackend) -> Courier:
    """How messages get to a broker, of runs that are kept there."""
    return RedisCourier(broker, backend) if isinstance(broker, RedisBroker) else Courier(broker)


def application_of(broker: Broker) -> str:
    """By what a broker tells its messages from those of others on the same server."""
    if isinstance(broker, RedisBroker):
        return str(broker.namespace)
    parameters: Any = getattr(broker, "parameters", None)  # a RabbitmqBroker's: one, or several
    first = parameters[0] if isinstance(parameters, list | tuple) and parameters else parameters
    host = first.get("virtual_host", "") if isinstance(first, dict) else getattr(first, "virtual_host", "")
    return str(host)


def warnings_of(broker: Broker) -> Iterator[str]:
    """What puts runs at risk in how a broker is set up."""
    if getattr(broker, "confirm_delivery", None) is False:
        yield (
            f"{type(broker).__name__} publishes without confirmation, so what its server doesn't take is lost. "
            "Create it with confirm_delivery=True"
        )
