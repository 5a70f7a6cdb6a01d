"""The builder: stages, options, run(), nest()."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dramatiq import Broker, Message, get_broker
from dramatiq.common import current_millis
from dramatiq.logging import get_logger

from . import job, mermaid
from .engine import engine_of
from .errors import NestingError, OutcomeUnknown, RunIdTaken, Unavailable
from .handover import hand_over
from .plan import Plan, Spec, StageLine, to_row
from .run import Run
from .steps import AnyActor, Description, Stage, Step, members_of, to_member, to_message

Callback = Message[Any] | AnyActor | str

#: The callbacks that a user sets, by the names of their options.
CALLBACKS = ("on_failure", "on_death", "on_success", "on_finish")

#: What an id that a user gives looks like. `~` is for nested runs, and braces have a meaning in Redis Cluster.
RUN_ID = re.compile(r"[A-Za-z0-9_.:@/+=-]{1,200}")

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clutch(Description):
    """An immutable description of work. Every call returns a new one; each can be run, more than once.

    Each callback is an actor, a message or an actor's name; it gets the run's status (a JSON dict, with the `event` and
    the index of the `stage`) as its last argument.

    Parameters:
      queue: overrides the actors' queues, for every job and callback of every stage. The broker must know it.
      on_failure: is sent once for a stage, when every member has had an attempt and at least one is failing or dead.
      on_death: is sent once for a stage, when its first member is dead.
      on_success: is sent when the last stage has succeeded.
      on_finish: is sent when the run comes to rest: succeeded, failed or cancelled.
      name: shown in the status.
      broker: default is the global broker at `run()`.
    """

    on_failure: Callback | None = None
    on_death: Callback | None = None
    on_success: Callback | None = None
    on_finish: Callback | None = None
    broker: Broker | None = None
    stages: tuple[Stage, ...] = dataclasses.field(default=(), init=False)
    completions: tuple[Message[Any], ...] = dataclasses.field(default=(), init=False, repr=False)
    composed: bool = dataclasses.field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        for option in CALLBACKS:
            callback = getattr(self, option)
            if callback is not None and not isinstance(callback, str):
                to_message(callback, what=option, accepted="an actor, a message or an actor's name")

    def then(self, *steps: Step, pipe: bool = False) -> Clutch:
        """Add one stage per step, in order.

        Parameters:
          pipe: append the result of the stage before as the last positional argument: the value after a stage of one,
            the list after a `parallel` or `map`. A step with Dramatiq's option `pipe_ignore` doesn't get it.

        Raises:
          TypeError: it isn't a step.
          ValueError: `pipe` in a first stage.
        """
        members = [to_member(step, what="then()") for step in steps]
        return self._with(*(self._stage((member,), pipe=pipe and "then()") for member in members))

    def parallel(self, *steps: Step | Iterable[Step], pipe: bool = False, allow_failures: bool = False) -> Clutch:
        """Add one stage whose members work in parallel. Two calls make two stages.

        It takes steps, or one iterable of steps, which is read at once.

        Parameters:
          pipe: as for `then`.
          allow_failures: the stage counts as complete when all its members are settled. In `previous_results()` None
            stands for a dead one, and `previous_failures()` says why.

        Raises:
          TypeError: it isn't a step.
          ValueError: `pipe` in a first stage.
        """
        members = members_of(steps, what="parallel()")
        return self._with(self._stage(members, pipe=pipe and "parallel()", many=True, tolerant=allow_failures))

    def map(self, step: Step, *, allow_failures: bool = False) -> Clutch:
        """Add one stage with a member per item of the stage before, appended as the last positional argument. A clutch
        finds the item as the `previous_results()` of its first stage.

        Items are a `parallel` or `map` stage's results; a stage of one must return a list, else the run fails.

        Parameters:
          allow_failures: as for `parallel`.

        Raises:
          TypeError: it isn't a step.
          ValueError: it's the first stage.
        """
        if not self.stages:
            raise ValueError("map() maps over the results of the stage before; a first stage has none")
        member = _fed(to_member(step, what="map()"))
        return self._with(Stage((member,), many=True, mapped=True, tolerant=allow_failures))

    def run(self, *, delay: int | None = None, run_id: str | None = None) -> Run:
        """Start a run and return its handle. From then on it is safe: if the first stage can't be sent just now, a
        worker does it.

        Parameters:
          delay: the least number of milliseconds before the first job works.
          run_id: an id of your own, of 1 to 200 letters, digits and ``_.:@/+=-``. Run under it twice, a clutch starts
            one run, and both calls return a handle of that. It stays claimed for `run_ttl`, also after success.

        Raises:
          NotConfigured: the broker has no ClutchMiddleware, or that has no backend.
          ValueError: nobody has declared the queue, or the id isn't one.
          ActorNotFound: nobody has declared a callback's actor.
          RunIdTaken: another clutch was run under this id.
          StateUnavailable: the state store is away; nothing was started.
          OutcomeUnknown: the store went away in the middle; the run may have started. The error has its id.
        """
        if run_id is not None and not RUN_ID.fullmatch(run_id):
            raise ValueError(f"run_id {run_id!r} isn't one: it takes 1 to 200 letters, digits and _.:@/+=-")
        broker = self.broker or get_broker()
        engine = engine_of(broker)
        plan = _plan(self, broker, start_at=current_millis() + delay if delay else None)
        claim = "" if run_id is None else plan.fingerprint
        run_id = run_id or str(uuid4())
        caller = engine.caller(owner=f"run:{uuid4()}")
        try:
            reply = engine.backend.create(
                run_id, plan, caller, run_ttl=engine.run_ttl, result_ttl=engine.result_ttl, claim=claim
            )
        except Unavailable as error:
            raise OutcomeUnknown(f"run {run_id!r} may have started, or not: {error}", run_id) from error
        if reply.word == "taken":
            raise RunIdTaken(f"another clutch was run as {run_id!r}: give this one an id of its own")
        try:
            hand_over(engine, run_id, reply, caller)
        except Unavailable as error:
            logger.warning("Run %s is stored; a worker will send its first stage: %s", run_id, error)
        return Run(run_id, broker=broker)

    def nest(self) -> Run:
        """Make a run part of the running job's own stage: whatever follows waits for it. It starts when the job
        succeeds; an attempt that raises starts nothing.

        If the actor returns the handle (or a list of handles), the nested result (or the list of them) becomes the
        job's result; otherwise what the actor returns stands. The first stage of the nested run sees no previous
        results, and its queues are the actors' own.

        Raises:
          NestingError: outside a job of a clutch.
          ValueError: nobody has declared the queue.
          ActorNotFound: nobody has declared a callback's actor.
        """
        running = job.current_job()
        if running is None:
            raise NestingError("nest() makes a run part of the running job's stage; outside a clutch job use run()")
        return running.nest(_plan(self, running.engine.broker))

    def to_mermaid(self) -> str:
        """A picture of the clutch as a Mermaid flowchart, which GitHub and most documentation tools render."""
        return mermaid.draw(self)

    def _stage(
        self, members: tuple[Any, ...], *, pipe: str | bool, many: bool = False, tolerant: bool = False
    ) -> Stage:
        if pipe and not self.stages:
            raise ValueError(f"{pipe} can't pipe into a first stage: there is no result before it")
        if pipe:
            members = tuple(map(_fed, members))
        return Stage(members, many=many, tolerant=tolerant, piped=bool(pipe))

    def _with(self, *stages: Stage) -> Clutch:
        longer = dataclasses.replace(self)
        object.__setattr__(longer, "stages", (*self.stages, *stages))
        return longer


def _fed(member: Message[Any] | Description) -> Message[Any] | Description:
    return member.fed() if isinstance(member, Description) else member


def _plan(
    description: Description,
    broker: Broker,
    *,
    queue: str | None = None,
    start_at: int | None = None,
    inherits: bool = False,
) -> Plan:
    """The description, ready to be stored. What is written down in it inherits the queue."""
    queue = description.queue or queue
    if queue is not None and queue not in broker.get_declared_queues():
        raise ValueError(
            f"no actor has declared the queue {queue!r}, so no worker would listen to it; declare it where "
            f"the broker is set up: broker.declare_queue({queue!r})"
        )
    lines: list[StageLine] = []
    rows: list[bytes] = []
    for stage in description.stages:
        lines.append(
            StageLine(
                offset=len(rows),
                total=None if stage.mapped else len(stage.members),
                many=stage.many,
                mapped=stage.mapped,
                tolerant=stage.tolerant,
                piped=stage.piped,
                nested=any(isinstance(member, Description) for member in stage.members),
            )
        )
        for member in stage.members:
            if isinstance(member, Description):
                rows.append(_plan(member, broker, queue=queue, start_at=start_at, inherits=True).to_row())
            else:
                rows.append(to_row(member))
    callbacks = {event: _rows_of(messages, queue) for event, messages in _callbacks(description, broker).items()}
    return Plan(Spec(description.name, queue, start_at, callbacks, inherits=inherits), tuple(lines), tuple(rows))


def _callbacks(description: Description, broker: Broker) -> dict[str, tuple[Message[Any], ...]]:
    """The callbacks by their events. Raises ActorNotFound."""
    found = {"completion": description.completions} if description.completions else {}
    for option in CALLBACKS if isinstance(description, Clutch) else ():
        callback = getattr(description, option)
        if callback is not None:
            step = broker.get_actor(callback) if isinstance(callback, str) else callback
            found[option] = (to_message(step, what=option, accepted="an actor, a message or an actor's name"),)
    for message in (message for messages in found.values() for message in messages):
        broker.get_actor(message.actor_name)
    return found


def _rows_of(messages: Iterable[Message[Any]], queue: str | None) -> tuple[bytes, ...]:
    return tuple(to_row(message.copy(queue_name=queue or message.queue_name)) for message in messages)
