"""Does what a transition owes: opens and sends stages, sends callbacks; then confirms.

A duty may be done twice (its lease lapsed while its holder slept), so everything here can be: messages carry derived
ids, and a second copy is known by its member's state.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from dramatiq import Broker, Message, Middleware
from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from .backend import Caller, ClutchBackend, Duty, Reply
from .dispatch import send
from .errors import DamagedState, HandOverFailed, NotConfigured, ResultsGone, RunNotFound, Unavailable
from .plan import OPTION, Spec, StageLine, Tag, from_row
from .status import failure_details, status_from

#: How many members are sent between two confirmations.
CHUNK = 1_000

logger = get_logger(__name__)


@dataclass(frozen=True)
class Engine:
    """A broker, a state store and their settings: what every transition and every hand-over needs."""

    broker: Broker
    backend: ClutchBackend
    run_ttl: int
    result_ttl: int
    lease_ms: int
    stopping: threading.Event = field(default_factory=threading.Event)

    def caller(self, owner: str) -> Caller:
        """Somebody who asks for duties now, under a lease of its own."""
        return Caller(owner, current_millis(), secrets.token_hex(8), self.lease_ms, touch_every=self.run_ttl // 10)

    def spec(self, run_id: str) -> Spec:
        """Raises RunNotFound, or DamagedState."""
        data = self.backend.spec(run_id)
        if data is None:
            raise RunNotFound(f"there is no run {run_id!r} (any more)")
        return Spec.from_bytes(data)

    def stage_results(self, run_id: str, stage: int) -> tuple[StageLine, list[Any]]:
        """The decoded results of a stage that has succeeded, in written order. Raises ResultsGone."""
        line = self.backend.line(run_id, stage)
        if line is None:
            raise ResultsGone(f"the results of stage {stage} of run {run_id!r} are gone: it has expired")
        known = StageLine.parse(line)
        found = self.backend.results(run_id, stage, 0, known.total or 0)
        if None in found:
            raise ResultsGone(f"result {found.index(None)} of stage {stage} of run {run_id!r} is not there (any more)")
        decode = self.backend.encoder.decode
        return known, [decode(result) for result in found if result is not None]

    def hand_over(self, run_id: str, reply: Reply, caller: Caller) -> None:
        """Do a transition's duties, and what follows from them, in order. Raises Unavailable; they then stay owed."""
        duties = list(reply.duties)
        while duties:
            duty = duties.pop(0)
            try:
                duties += self._do(run_id, duty, caller)
            except Unavailable:
                raise
            except Exception as error:
                logger.exception("Run %s fails: its duty %s can't be done", run_id, duty.id)
                details = failure_details(error)
                duties += self.backend.fail(run_id, duty, details, self._later(caller)).duties

    def sweep(self, limit: int = 100) -> int:
        """Finish what is owed and nobody does: duties whose lease has lapsed. Returns how many runs were looked at."""
        now = current_millis()
        due = self.backend.due(now, now + 2 * self.lease_ms, limit)
        for run_id in due:
            caller = self.caller(owner="sweeper")
            reply = self.backend.owed(run_id, caller)
            self.hand_over(run_id, reply, caller)
            if reply.word in ("succeeded", "unknown") and not reply.duties:
                self.backend.forget(run_id)
        return len(due)

    def _do(self, run_id: str, duty: Duty, caller: Caller) -> Iterable[Duty]:
        if duty.kind == "open":
            return self._open(run_id, duty, caller)
        if duty.kind == "send":
            self._send_stage(run_id, duty, caller)
        else:
            self._send_callback(run_id, duty)
        self.backend.confirm(run_id, duty, self._later(caller))
        return ()

    def _open(self, run_id: str, duty: Duty, caller: Caller) -> Iterable[Duty]:
        line = StageLine.parse(duty.line)
        total = len(self._items(run_id, duty.stage)) if line.mapped else 0
        return self.backend.open(run_id, duty, total, self._later(caller)).duties

    def _send_stage(self, run_id: str, duty: Duty, caller: Caller) -> None:
        spec, line = self.spec(run_id), StageLine.parse(duty.line)
        message_of = self._mapped(run_id, duty.stage, line) if line.mapped else None
        for start in range(max(duty.start, duty.cursor), duty.end, CHUNK):
            end = min(start + CHUNK, duty.end)
            if message_of:
                messages = [message_of(member) for member in range(start, end)]
            else:
                rows = self.backend.rows(run_id, line.offset + start, line.offset + end)
                if len(rows) < end - start:
                    raise DamagedState(f"the plan of run {run_id!r} lacks messages of stage {duty.stage}")
                messages = [from_row(row) for row in rows]
            tags = [Tag(run_id, duty.stage, member, line.total or 0, again=duty.again) for member in range(start, end)]
            jobs = (job_message(message, tag, spec) for message, tag in zip(messages, tags, strict=True))
            send(self.broker, [(job, delay_of(job, spec)) for job in jobs])
            if end < duty.end and self.backend.confirm(run_id, duty, self._later(caller), cursor=end) == "lost":
                return  # the lease has passed to somebody else, who sends the rest

    def _mapped(self, run_id: str, stage: int, line: StageLine) -> Callable[[int], Message[Any]]:
        (row,) = self.backend.rows(run_id, line.offset, line.offset + 1) or (b"",)
        template, items = from_row(row), self._items(run_id, stage)
        return lambda member: template.copy(args=(*template.args, items[member]))

    def _items(self, run_id: str, stage: int) -> list[Any]:
        """What a mapped stage is mapped over."""
        line, results = self.stage_results(run_id, stage - 1)
        if line.many:
            return results
        (value,) = results
        if not isinstance(value, list):
            shown = repr(value)
            shown = shown if len(shown) <= 100 else shown[:100] + "…"
            raise HandOverFailed(
                f"stage {stage} maps over the result of stage {stage - 1}, which must be a list; "
                f"it is a {type(value).__name__}: {shown}"
            )
        return value

    def _send_callback(self, run_id: str, duty: Duty) -> None:
        if duty.snapshot is None:
            raise DamagedState(f"the duty {duty.id!r} of run {run_id!r} has no snapshot")
        message = from_row(self.spec(run_id).callbacks[duty.kind])
        status = status_from(run_id, duty.snapshot).asdict() | {"event": duty.kind, "stage": duty.stage}
        stamped = message.copy(
            args=(*message.args, status), message_id=f"{run_id}/{duty.id}", message_timestamp=current_millis()
        )
        send(self.broker, [(stamped, stamped.options.get("delay"))])

    def _later(self, caller: Caller) -> Caller:
        """The same caller, at the present time."""
        return replace(caller, now=current_millis())


def job_message(message: Message[Any], tag: Tag, spec: Spec) -> Message[Any]:
    """A plan's message, ready to be sent: in its place, with a derived id, the run's queue and a fresh timestamp
    (AgeLimit looks at it)."""
    return message.copy(
        queue_name=spec.queue or message.queue_name,
        message_id=tag.message_id,
        message_timestamp=current_millis(),
        options={OPTION: tag.to_option()},
    )


def delay_of(message: Message[Any], spec: Spec) -> int | None:
    """How long a message is to wait: its own delay counts from now, its stage's release; the run's from `run()`."""
    own = message.options.get("delay") or 0
    rest = spec.start_at - current_millis() if spec.start_at else 0
    return max(own, rest, 0) or None


class EngineMiddleware(Middleware):
    """What makes a broker ready for clutches; `ClutchMiddleware` is the one to add."""

    def engine(self, broker: Broker) -> Engine:
        raise NotImplementedError


def engine_of(broker: Broker) -> Engine:
    """Raises NotConfigured for a broker without the middleware."""
    for middleware in broker.middleware:
        if isinstance(middleware, EngineMiddleware):
            return middleware.engine(broker)
    raise NotConfigured(
        f"{type(broker).__name__} has no ClutchMiddleware: call broker.add_middleware(ClutchMiddleware()) where the "
        "broker is set up, in the producer and in the workers alike"
    )
