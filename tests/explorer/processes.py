"""Processes: real entry points of the library, run up to their next call to the store or to the broker.

A process is plain data: what it was started for, and the replies it has had so far. To find out what it does next, its
entry point is run again from the start. It gets the known replies to its first calls; at the first call that has no
reply yet it is stopped by an exception, and that call is what it does next. So no state of the interpreter has to be
kept, and the same process can be continued in any number of worlds.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from queue import PriorityQueue
from typing import Any, Literal

import pytest
from dramatiq import Broker, Consumer, Message, MessageProxy
from dramatiq.common import compute_backoff
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Retries
from dramatiq.worker import ConsumerThread, WorkerThread, _WorkQueueItem

from dramatiq_clutch import ClutchMiddleware, Run
from dramatiq_clutch.backend import ClutchBackend
from dramatiq_clutch.engine import Engine, engine_of
from dramatiq_clutch.errors import StateUnavailable

#: What a process can't do without others seeing it: a call to the store, or to the broker.
Target = Literal["store", "broker"]

#: The present, in UNIX milliseconds. In a story it is always this time: when time passes, what is stored grows older.
NOW = 100_000_000

#: How long a lease is, and how much time passes when all of them lapse, in milliseconds.
LEASE, LAPSE = 30_000, 61_000

#: How long runs and results live, in milliseconds: nothing expires in a story.
TTL = 60 * 86_400_000

#: The queue of all actors.
QUEUE = "default"


class Pause(BaseException):
    """Stops a process at its next call. Nobody catches it but who has started the process; a `finally` may."""


class Unexpected(Exception):
    """A process did what no story allows, such as another call than the first time."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that a process makes."""

    target: Target
    method: str
    arguments: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""

    @property
    def key(self) -> str:
        """What tells it from other calls."""
        return repr((self.target, self.method, self.arguments, sorted(self.named.items())))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process got for a call: a value, or the `error` that the store raised. `is_lost`: the call was done, and
    all that the process got is a broken connection. `is_late`: leases lapsed before it came."""

    value: Any = None
    error: Exception | None = None
    is_lost: bool = False
    is_late: bool = False

    @property
    def key(self) -> str:
        """What tells it from other answers to the same call."""
        return repr((self.is_late, "lost" if self.is_lost else self.error or self.value))


@dataclass(frozen=True, slots=True)
class Start:
    """What a process is: the `name` tells its tokens from those of all others; `message` is a worker's."""

    kind: Literal["worker", "sweeper", "caller"]
    name: str
    does: str = ""
    message: bytes = b""


@dataclass(frozen=True, slots=True)
class Point:
    """How far a process has come: what it does next. Nothing, if it has ended; then `raised` may say why."""

    request: Request | None
    raised: str = ""


class Relay:
    """Answers a process from what is known, and stops it where nothing is."""

    def __init__(self) -> None:
        self.begin(Start("caller", "nobody"), ())

    def begin(self, start: Start, answers: Sequence[Answer]) -> None:
        self.start, self.answers = start, answers
        self.at, self.tokens, self.passed, self.next = 0, 0, 0, None

    next: Request | None

    def call(self, target: Target, method: str, *arguments: Any, **named: Any) -> Any:
        if self.next is not None:
            raise Pause
        if self.at == len(self.answers):
            self.next = Request(target, method, arguments, named, self.token())
            raise Pause
        answer = self.answers[self.at]
        self.at += 1
        self.passed += LAPSE if answer.is_late else 0
        if answer.is_lost:
            raise _lost(target, method)
        if answer.error is not None:
            raise answer.error.with_traceback(None)
        return answer.value

    def token(self, digits: int = 16) -> str:
        """A name that depends on nothing but the process and how many it has made before."""
        self.tokens += 1
        return hashlib.sha256(f"{self.start.name}/{self.tokens}".encode()).hexdigest()[:digits]

    def identity(self) -> str:
        """The same for what people read, such as the id of a run."""
        token = self.token(8)
        return "R" if self.start.does == "run" else token


def _lost(target: Target, method: str) -> Exception:
    if target == "store":
        return StateUnavailable(f"the reply to {method} was lost")
    return ConnectionClosed(f"the reply to {method} was lost")


def _relayed(method: str) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        return self.relay.call("store", method, *arguments, **named)

    return call


class _RelayedBackend(ClutchBackend):
    """A store of which every method is a call that others can come between. Hints reach nobody: they may be lost."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self.relay = relay

    def say(self, name: str) -> None:
        pass

    def listen(self) -> Any:
        raise Unexpected("nobody listens in a story")


def relayed_backend(relay: Relay) -> ClutchBackend:
    """A store for processes."""
    methods = {name: _relayed(name) for name in ClutchBackend.__abstractmethods__ - {"say", "listen"}}
    kind: Any = type("RelayedBackend", (_RelayedBackend,), methods)
    made: ClutchBackend = kind(relay)
    return made


class RelayedBroker(Broker):
    """A broker that calls the hooks as all do, and to which each message is a call that others can come between."""

    def __init__(self, relay: Relay, middleware: list[Any]) -> None:
        super().__init__(middleware=middleware)
        self.relay = relay
        self.queues = {}
        self.declare_queue(QUEUE)

    def declare_queue(self, queue_name: str) -> None:
        self.queues[queue_name] = True

    def get_declared_queues(self) -> set[str]:
        return set(self.queues)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        self.emit_before("enqueue", message, delay)
        self.relay.call("broker", "enqueue", message.encode())
        self.emit_after("enqueue", message, delay)
        return message


class RelayedConsumer(Consumer):
    """Whose acks are calls."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    def ack(self, message: MessageProxy) -> None:
        self.relay.call("broker", "ack")

    def nack(self, message: MessageProxy) -> None:
        self.relay.call("broker", "nack")

    def requeue(self, messages: Any) -> None:
        raise Unexpected("no worker stops in a story")

    def __next__(self) -> None:
        raise Unexpected("messages are handed to workers one by one")


class Middleware(ClutchMiddleware):
    """The real one, which waits for nothing: it tries again at once."""

    def __init__(self, backend: ClutchBackend, share: int | None) -> None:
        super().__init__(backend, run_ttl=TTL, result_ttl=TTL, lease=LEASE, sweep_interval=None)
        self.share = share
        self._made: Engine | None = None

    def _engine(self, broker: Broker) -> Engine:
        if self._made is None:
            engine = super()._engine(broker)
            self._made = engine if self.share is None else replace(engine, share=self.share)
        return self._made

    def _wait(self, seconds: float) -> bool:
        return False


class Clock:
    """What the modules find as `time` while stories are told."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    def monotonic(self) -> float:
        return time.monotonic() + self.relay.passed / 1000

    def time(self) -> float:
        return NOW / 1000

    def millis(self) -> int:
        return NOW

    def sleep(self, seconds: float) -> None:
        pass


class Laboratory:
    """Runs processes up to their next call."""

    def __init__(self, *, share: int | None = None, max_retries: int = 1) -> None:
        self.relay = Relay()
        self.middleware = Middleware(relayed_backend(self.relay), share)
        self.broker = RelayedBroker(self.relay, [Retries(max_retries=max_retries), self.middleware])
        self.calls: dict[str, Callable[[], Any]] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Have all modules take time and tokens from here, and say nothing."""
        clock, relay = Clock(self.relay), self.relay
        fakes: dict[str, Any] = {
            "current_millis": clock.millis,
            "new_token": lambda digits=16: relay.token(digits),
            "new_generation": relay.token,
            "uuid4": relay.identity,
            "compute_backoff": partial(compute_backoff, jitter=False),
        }
        disabled = logging.root.manager.disable
        with pytest.MonkeyPatch.context() as patch:
            for name, module in list(sys.modules.items()):
                if name.startswith(("dramatiq_clutch", "dramatiq.middleware.retries", "dramatiq.worker")):
                    if getattr(module, "time", None) is time:
                        patch.setattr(module, "time", clock)
                    for fake, value in fakes.items():
                        if hasattr(module, fake):
                            patch.setattr(module, fake, value)
            # Who waits for what others do asks twice, and no more: otherwise a history might go on for ever.
            patch.setattr("dramatiq_clutch.handover.deleting.PAUSE", float(LEASE))
            logging.disable(logging.CRITICAL)
            try:
                yield
            finally:
                logging.disable(disabled)

    def run(self, start: Start, answers: Sequence[Answer]) -> Point:
        """What a process that has had these answers does next."""
        self.relay.begin(start, answers)
        engine_of(self.broker).remembered.renew()
        raised = ""
        try:
            self._enter(start)
        except Pause:
            pass
        except Unexpected:
            raise
        except Exception as error:
            raised = repr(error)
        if self.relay.at < len(answers):
            raise Unexpected(f"{start.name} made fewer calls than before")
        return Point(self.relay.next, "" if self.relay.next else raised)

    def _enter(self, start: Start) -> None:
        if start.kind == "worker":
            self._work(start.message)
        elif start.kind == "sweeper":
            self.middleware.sweep(self.broker)
        else:
            self.calls[start.does]()

    def _work(self, encoded: bytes) -> None:
        """Process a message as Dramatiq's own worker does, from its first hook to its ack."""
        queue: PriorityQueue[_WorkQueueItem] = PriorityQueue()
        consumer = ConsumerThread(
            broker=self.broker, queue_name=QUEUE, prefetch=1, work_queue=queue, worker_timeout=1_000
        )
        consumer.consumer = RelayedConsumer(self.relay)
        worker = WorkerThread(broker=self.broker, consumers={QUEUE: consumer}, work_queue=queue, worker_timeout=1_000)
        message = MessageProxy(Message.decode(encoded))
        queue.put(_WorkQueueItem(0, message))
        worker.process_message(queue.get().message)

    def handle(self, run_id: str) -> Run:
        return Run(run_id, broker=self.broker)
