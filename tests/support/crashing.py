"""A process that kills itself (-9) before or after a given call, as a power cut might."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from dramatiq.brokers.redis import RedisBroker

from dramatiq_clutch.courier import Courier
from dramatiq_clutch.engine import engine_of

#: A key that is set by a process that kills itself, to the method's name.
CRASHED = "crashed"

#: The method of the courier by which a chunk of messages goes to the broker. All others are the state store's.
SEND = "_send"


def crash_at(broker: RedisBroker, where: str) -> None:
    """Kill this process at a call of a method of the broker's state store, or of its courier's method `SEND`.

    Parameters:
      where: "method nth moment", such as "record 2 before" or "_send 1 after".
    """
    boundary, nth, moment = where.split()
    engine = engine_of(broker)
    courier: Any = engine.courier
    if boundary == "confirm":  # as where runs are kept on a server of their own
        courier.send_and_confirm = partial(Courier.send_and_confirm, courier)
    target: Any = courier if boundary == SEND else engine.backend
    calls = itertools.count(1)

    def crash() -> None:
        broker.client.set(CRASHED, boundary)  # Dramatiq's supervisor may wait for ever for one that dies while it boots
        os.kill(os.getpid(), signal.SIGKILL)

    def crashing(works: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            is_the_one = next(calls) == int(nth)  # other threads call it, too
            if is_the_one and moment == "before":
                crash()
            answer = works(*args, **kwargs)
            if is_the_one:
                crash()
            return answer

        return wrapper

    setattr(target, boundary, crashing(getattr(target, boundary)))
