"""The builder: stages, options, run()."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dramatiq import Actor, Broker, GenericActor, Message, get_broker
from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from .errors import OutcomeUnknown, Unavailable
from .handover import engine_of
from .plan import Plan, Spec, StageLine, to_row
from .run import Run

Step = Message[Any] | Actor[..., Any] | GenericActor | type[GenericActor]  # a class, to the eyes of a type checker
Callback = Step | str

ACCEPTED = "a message (actor.message(...)) or an actor"

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a clutch, as it was written."""

    messages: tuple[Message[Any], ...]
    many: bool = False
    mapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clutch:
    """An immutable description of work. Every call returns a new one; each can be run, more than once.

    Parameters:
      queue: overrides the actors' queues, for every job and callback of every stage. The broker must know it.
      on_failure: an actor, a message or an actor's name. It is sent once for a failing stage, when every member has had
        an attempt and at least one is failing or dead, with the run's status (a JSON dict) as its last argument.
      name: shown in the status.
      broker: default is the global broker at `run()`.
    """

    queue: str | None = None
    on_failure: Callback | None = None
    name: str | None = None
    broker: Broker | None = None
    stages: tuple[Stage, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.on_failure is not None and not isinstance(self.on_failure, str):
            to_message(self.on_failure, what="on_failure", accepted="an actor, a message or an actor's name")

    def then(self, *steps: Step) -> Clutch:
        """Add one stage per step, in order. Raises TypeError for what isn't a step."""
        return self._with(Stage((to_message(step, what="then()"),)) for step in steps)

    def parallel(self, *steps: Step | Iterable[Step]) -> Clutch:
        """Add one stage whose members work in parallel. Two calls make two stages.

        It takes steps, or one iterable of steps, which is read at once. Raises TypeError for what isn't a step.
        """
        members: Iterable[Any] = steps
        if len(steps) == 1 and not is_step(steps[0]):
            (only,) = steps
            if isinstance(only, str | bytes | dict) or not isinstance(only, Iterable):
                raise TypeError(f"parallel() takes steps, or one iterable of steps, not {only!r}; a step is {ACCEPTED}")
            members = only
        return self._with([Stage(tuple(to_message(step, what="parallel()") for step in members), many=True)])

    def map(self, step: Step) -> Clutch:
        """Add one stage with a member per item of the stage before, appended as the last positional argument.

        Items are a `parallel` or `map` stage's results; a stage of one must return a list, else the run fails. Raises
        TypeError for what isn't a step, and ValueError in a first stage.
        """
        if not self.stages:
            raise ValueError("map() maps over the results of the stage before; a first stage has none")
        return self._with([Stage((to_message(step, what="map()"),), many=True, mapped=True)])

    def run(self, *, delay: int | None = None) -> Run:
        """Start a run and return its handle. From then on it is safe: if the first stage can't be sent just now, a
        worker does it.

        Parameters:
          delay: the least number of milliseconds before the first job works.

        Raises:
          NotConfigured: the broker has no ClutchMiddleware, or that has no backend.
          ValueError: nobody has declared the queue.
          ActorNotFound: nobody has declared the callback's actor.
          StateUnavailable: the state store is away; nothing was started.
          OutcomeUnknown: the store went away in the middle; the run may have started. The error has its id.
        """
        broker = self.broker or get_broker()
        engine = engine_of(broker)
        plan = self._plan(broker, delay)
        run_id = str(uuid4())
        caller = engine.caller(owner=f"run:{uuid4()}")
        try:
            reply = engine.backend.create(run_id, plan, caller, run_ttl=engine.run_ttl, result_ttl=engine.result_ttl)
        except Unavailable as error:
            raise OutcomeUnknown(f"run {run_id!r} may have started, or not: {error}", run_id) from error
        try:
            engine.hand_over(run_id, reply, caller)
        except Unavailable as error:
            logger.warning("Run %s is stored; a worker will send its first stage: %s", run_id, error)
        return Run(run_id, broker=broker)

    def _with(self, stages: Iterable[Stage]) -> Clutch:
        longer = dataclasses.replace(self)
        object.__setattr__(longer, "stages", (*self.stages, *stages))
        return longer

    def _plan(self, broker: Broker, delay: int | None) -> Plan:
        if self.queue is not None and self.queue not in broker.get_declared_queues():
            raise ValueError(
                f"no actor has declared the queue {self.queue!r}, so no worker would listen to it; declare it where "
                f"the broker is set up: broker.declare_queue({self.queue!r})"
            )
        callbacks = {} if self.on_failure is None else {"on_failure": self._callback_row(broker, self.on_failure)}
        lines: list[StageLine] = []
        rows: list[bytes] = []
        for stage in self.stages:
            total = None if stage.mapped else len(stage.messages)
            lines.append(StageLine(len(rows), total, many=stage.many, mapped=stage.mapped))
            rows += [to_row(message) for message in stage.messages]
        start_at = current_millis() + delay if delay else None
        return Plan(Spec(self.name, self.queue, start_at, callbacks), tuple(lines), tuple(rows))

    def _callback_row(self, broker: Broker, callback: Callback) -> bytes:
        step = broker.get_actor(callback) if isinstance(callback, str) else callback
        message = to_message(step, what="on_failure")
        broker.get_actor(message.actor_name)
        return to_row(message.copy(queue_name=self.queue or message.queue_name))


def is_step(value: object) -> bool:
    return isinstance(value, Message | Actor | GenericActor)


def to_message(step: Any, *, what: str, accepted: str = ACCEPTED) -> Message[Any]:
    """A copy of the message, or the actor's message without arguments. Raises TypeError, naming what was given."""
    if isinstance(step, Message):
        return step.copy()
    if isinstance(step, Actor | GenericActor):
        actor: Any = step  # a GenericActor hands on what its actor has
        message: Message[Any] = actor.message()
        return message
    raise TypeError(f"{what} takes {accepted}, not {step!r}")
