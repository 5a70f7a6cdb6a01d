"""The search: all states that a world can be in, breadth first, so that the first violation has a shortest story."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from dramatiq import Message

from dramatiq_clutch.backend import Caller, Record, Reply
from dramatiq_clutch.errors import ClutchError
from dramatiq_clutch.status import RunStatus, status_from
from dramatiq_clutch.stored.places import OPTION, CallbackTag, Tag, tag_of

from .memory import Memory
from .processes import LAPSE, LEASE, NOW, Answer, Laboratory, Point, Request, Start, Unexpected
from .worlds import Actors, Bounds, Either, World

#: How much time passes when a sweeper is only to come much later: more than half of `stalled_after`.
LONG = 2_000_000

#: More members than a stage of any world has.
MOST_MEMBERS = 100

#: How often time may pass in a row though nothing comes of it, before something counts as owed for ever.
PATIENCE = 3

Fact = tuple[Any, ...]
Facts = frozenset[Fact]
#: Which node a process has come to; which message it holds, or NONE; whether leases have lapsed since its last answer.
Proc = tuple[int, int, bool]

NONE = -1


class State(NamedTuple):
    """A world at one moment. All but the numbers are numbers of something that the explorer keeps."""

    store: int
    queue: tuple[int, ...]
    procs: tuple[Proc, ...]
    calls: tuple[str, ...]
    kills: int
    lapses: int
    lost: int
    doubles: int
    facts: int
    quiet: int


class Action(NamedTuple):
    """How a state came out of another one."""

    kind: Literal["begin", "call", "lost", "kill", "double", "lapse", "quiet"]
    node: int = NONE
    then: Literal["", "acks", "killed", "ack lost", "unacked", "ends"] = ""


@dataclass(frozen=True)
class Envelope:
    """What is known of a message in the queue."""

    data: bytes
    tag: Tag | CallbackTag
    retries: int

    @property
    def place(self) -> Fact:
        assert isinstance(self.tag, Tag)
        return self.tag.run_id, self.tag.stage, self.tag.member

    @property
    def label(self) -> str:
        if isinstance(self.tag, CallbackTag):
            return f"callback {self.tag.duty} of {self.tag.run_id}"
        label = f"job {self.tag.stage}.{self.tag.member} of {self.tag.run_id}"
        label += f", epoch {self.tag.epoch}" if self.tag.epoch else ""
        return label + (f", attempt {self.retries}" if self.retries else "")


@dataclass
class Node:
    """A process that has had so many answers, and what it does next."""

    start: Start
    answers: tuple[Answer, ...]
    point: Point
    after: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Violation:
    """What is wrong, and the shortest story that leads to it."""

    problem: str
    story: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.story, 1)]
        return "\n".join([*lines, f"  => {self.problem}"])


@dataclass(frozen=True)
class Outcome:
    """What a search has found. `rests` are the states at which nothing is left to do."""

    world: str
    bounds: Bounds
    states: int
    transitions: int
    rests: int
    deepest: int
    seconds: float
    probes: frozenset[str]
    violation: Violation | None


class Explorer:
    """Explores one world."""

    def __init__(self, world: World, bounds: Bounds) -> None:
        self.world, self.bounds = world, bounds
        self.laboratory = Laboratory(share=world.share)
        self.memory = Memory()
        actors = Actors(self.laboratory)
        self.nodes: list[Node] = []
        self.starts: dict[Start, int] = {}
        self.stores: list[Any] = []
        self.store_numbers: dict[Hashable, int] = {}
        self.done: dict[tuple[int, str], tuple[int, Any, Exception | None]] = {}
        self.steps: dict[tuple[int, int, bool, bool], tuple[int, int, int]] = {}
        self.watches: dict[tuple[int, int, int, bool], tuple[int, str]] = {}
        self.foregone: dict[tuple[int, int], bool] = {}
        self.envelopes: list[Envelope] = []
        self.envelope_numbers: dict[bytes, int] = {}
        self.facts: list[Facts] = []
        self.fact_numbers: dict[Facts, int] = {}
        self.ids: dict[Fact, str] = {}
        self.statuses: dict[int, RunStatus | None] = {}
        self.dues: dict[int, bool] = {}
        self.aged: dict[tuple[int, int], int] = {}
        self.rest_problems: dict[tuple[int, int], tuple[str, ...]] = {}
        self.probes: set[str] = set()
        clutch = world.build(actors)
        self.run_id = ""
        self.laboratory.calls = {
            "run": partial(clutch.run, run_id="R") if world.deletes else clutch.run,
            "cancel": lambda: self.laboratory.handle(self.run_id).cancel(),
            "retry": lambda: self.laboratory.handle(self.run_id).retry(),
            "resend": lambda: self.laboratory.handle(self.run_id).resend(),
            "replace": lambda: clutch.run(run_id=self.run_id, if_exists="replace"),
        }

    # Numbers for what is kept

    def node_of(self, start: Start) -> int:
        number = self.starts.get(start)
        if number is None:
            number = self.starts[start] = self._new_node(start, ())
        return number

    def after(self, node: int, answer: Answer) -> int:
        found = self.nodes[node]
        number = found.after.get(answer.key)
        if number is None:
            number = found.after[answer.key] = self._new_node(found.start, (*found.answers, answer))
        return number

    def _new_node(self, start: Start, answers: tuple[Answer, ...]) -> int:
        self.nodes.append(Node(start, answers, self.laboratory.run(start, answers)))
        return len(self.nodes) - 1

    def store_of(self) -> int:
        """The number of the state that the store is in now."""
        key = self.memory.key()
        number = self.store_numbers.get(key)
        if number is None:
            number = self.store_numbers[key] = len(self.stores)
            self.stores.append(self.memory.save())
        return number

    def facts_of(self, facts: Facts) -> int:
        number = self.fact_numbers.get(facts)
        if number is None:
            number = self.fact_numbers[facts] = len(self.facts)
            self.facts.append(facts)
        return number

    def envelope_of(self, data: bytes) -> int:
        number = self.envelope_numbers.get(data)
        if number is None:
            number = self.envelope_numbers[data] = len(self.envelopes)
            message: Message[Any] = Message.decode(data)
            tag = tag_of(message.options[OPTION], message.actor_name)
            self.envelopes.append(Envelope(data, tag, message.options.get("retries", 0)))
            if tag.message_id != message.message_id:
                raise Unexpected(f"{tag} has another id than what its place says")
        return number

    # The store

    def call(self, store: int, request: Request) -> tuple[int, Any, Exception | None]:
        """What a call makes of the store, and what it returns or raises."""
        key = store, request.key
        found = self.done.get(key)
        if found is None:
            self.memory.load(self.stores[store])
            value, error = None, None
            try:
                value = getattr(self.memory.backend, request.method)(*request.arguments, **request.named)
            except ClutchError as raised:
                error = raised
            found = self.done[key] = self.store_of(), value, error
        return found

    @contextmanager
    def at(self, store: int) -> Iterator[Any]:
        """The store as it was in a state; whatever is done to it is forgotten."""
        self.memory.load(self.stores[store])
        yield self.memory.backend

    def status(self, store: int) -> RunStatus | None:
        if store not in self.statuses:
            with self.at(store) as backend:
                snapshot = backend.snapshot(self.run_id) if self.run_id else None
            self.statuses[store] = status_from(self.run_id, snapshot) if snapshot else None
        return self.statuses[store]

    def is_due(self, store: int) -> bool:
        """Whether a sweeper would find anything."""
        if store not in self.dues:
            with self.at(store) as backend:
                self.dues[store] = bool(backend.due(NOW, NOW, 1))
        return self.dues[store]

    def older(self, store: int, by: int) -> int:
        """The store when so many milliseconds have passed."""
        key = store, by
        if key not in self.aged:
            self.memory.load(self.stores[store])
            self.memory.age(by)
            self.aged[key] = self.store_of()
        return self.aged[key]

    # What can happen

    def first(self) -> State:
        """The world as it begins: somebody has just called `run()`."""
        self.memory.load(None)
        node = self.node_of(Start("caller", "run", "run"))
        return State(
            self.store_of(), (), ((node, NONE, False),), self.world.calls, *self.bounds.faults,
            self.facts_of(frozenset()), 0,
        )  # fmt: skip

    def successors(self, state: State) -> Iterator[tuple[Action, State, str]]:
        """All that can happen next, each with what is wrong with it, if anything is."""
        foregone = self._foregone(state)
        if foregone is not None:
            yield from self._step(state, foregone, "call")
            return
        moves = list(self._moves(state))
        yield from moves
        yield from self._faults(state)
        if not moves:
            problems = self.problems_at_rest(state)
            if problems:
                yield self._pass_time(state, problems)

    def _foregone(self, state: State) -> int | None:
        """A process whose next call changes nothing and gets the same reply whenever it is made. It makes no difference
        what comes before it, so that it is made at once, and nothing else is looked at."""
        if state.lost:
            return None
        for position, (node, message, _) in enumerate(state.procs):
            if not (state.doubles and message != NONE) and self.is_foregone(node, state.store):
                return position
        return None

    def is_foregone(self, node: int, store: int) -> bool:
        """So is confirming a duty that has passed on to somebody else: no lease comes back. A sweeper that finds
        nothing due ends; should something be due later, one may begin then."""
        key = node, store
        found = self.foregone.get(key)
        if found is None:
            request, found = self.nodes[node].point.request, False
            if request is not None and request.method in ("confirm", "due"):
                after, value, error = self.call(store, request)
                found = after == store and error is None and value in ("lost", [])
            self.foregone[key] = found
        return found

    def _moves(self, state: State) -> Iterator[tuple[Action, State, str]]:
        for position in range(len(state.procs)):
            yield from self._step(state, position, "call")
        kinds = [self.nodes[node].start.kind for node, *_ in state.procs]
        if kinds.count("worker") < self.bounds.workers:
            for message in sorted(set(state.queue)):
                if not self._has_come(state, message):
                    continue
                left = list(state.queue)
                left.remove(message)
                envelope = self.envelopes[message]
                start = Start("worker", self._name(state, envelope.label), message=envelope.data)
                yield from self._begin(state._replace(queue=tuple(left), quiet=0), start, message)
        if kinds.count("sweeper") < self.bounds.sweepers and self.is_due(state.store):
            yield from self._begin(state, Start("sweeper", self._name(state, "sweeper")), NONE)
        for call in dict.fromkeys(state.calls):
            if self._may_call(state, call):
                left_calls = list(state.calls)
                left_calls.remove(call)
                start = Start("caller", self._name(state, call), call)
                yield from self._begin(state._replace(calls=tuple(left_calls), quiet=0), start, NONE)

    def _has_come(self, state: State, message: int) -> bool:
        """Whether a message can be taken from the queue. The next attempt of a job is delayed, so that it doesn't come
        before the one that has sent it has ended; unless that takes long, for something went wrong."""
        envelope = self.envelopes[message]
        if not envelope.retries or self._is_faulty(state):
            return True
        return all(
            held == NONE or self.envelopes[held].tag.message_id != envelope.tag.message_id for _, held, _ in state.procs
        )

    def _is_faulty(self, state: State) -> bool:
        """Whether anything has gone wrong so far. To send members again by hand is as good as that: a place then has
        two messages, and what its record owes is given to both, for they are one owner."""
        by_hand = any(call in self.world.calls and call not in state.calls for call in ("resend", "retry"))
        return by_hand or (state.kills, state.lapses, state.lost, state.doubles) != self.bounds.faults

    def _may_call(self, state: State, call: str) -> bool:
        status = self.status(state.store)
        if call == "replace":
            return bool(self.run_id) and self._has_returned(state)
        if status is None or not (self.bounds.early or self._has_returned(state)):
            return False
        return status.state in (("failed", "cancelled") if call == "retry" else ("running", "failing"))

    def _has_returned(self, state: State) -> bool:
        """Whether `run()` has, or its caller is dead."""
        return all(self.nodes[node].start.does != "run" for node, *_ in state.procs)

    def _name(self, state: State, label: str) -> str:
        """A name that no other process has whose leases can still be in the store: each that has died has cost a
        fault."""
        bounds = self.bounds
        used = bounds.kills + bounds.lost + bounds.doubles - state.kills - state.lost - state.doubles
        taken = {self.nodes[node].start.name for node, *_ in state.procs}
        names = (f"{label} #{used}.{number}" for number in range(len(taken) + 1))
        return next(name for name in names if name not in taken)

    def taken(self, node: int, store: int, *, is_lost: bool, is_late: bool) -> tuple[int, int, int]:
        """What comes of a process's next call: the store, the message that it has sent or NONE, and what it does
        then."""
        key = node, store, is_lost, is_late
        found = self.steps.get(key)
        if found is None:
            request = self.nodes[node].point.request
            if request is None:
                raise Unexpected(f"{self.nodes[node].start.name} has nothing to do")
            after, envelope, value, error = store, NONE, None, None
            if request.target == "store":
                after, value, error = self.call(store, request)
            else:
                envelope = self.envelope_of(request.arguments[0])
            answer = Answer(is_lost=True, is_late=is_late) if is_lost else Answer(value, error, is_late=is_late)
            found = self.steps[key] = after, envelope, self.after(node, answer)
        return found

    def watched(self, state: State, node: int) -> tuple[int, str]:
        """What a process's next call adds to what is known of the world, and what is wrong with it."""
        is_faulty = self._is_faulty(state)
        key = node, state.store, state.facts, is_faulty
        found = self.watches.get(key)
        if found is None:
            request = self.nodes[node].point.request
            assert request is not None
            value = self.call(state.store, request)[1] if request.target == "store" else None
            found = self.watches[key] = self.watch(state.facts, request, value, is_faulty=is_faulty)
        return found

    def _begin(self, state: State, start: Start, message: int) -> Iterator[tuple[Action, State, str]]:
        """A process begins, with its first call: nothing is different before that."""
        node = self.node_of(start)
        begun = state._replace(procs=(*state.procs, (node, message, False)))
        position = len(state.procs)
        yield from self._step(begun, position, "begin")
        if state.lost:
            yield from self._step(begun, position, "lost")

    def _step(
        self, state: State, position: int, kind: Literal["begin", "call", "lost"]
    ) -> Iterator[tuple[Action, State, str]]:
        """A process makes its next call."""
        node, message, is_late = state.procs[position]
        is_lost = kind == "lost"
        store, envelope, child = self.taken(node, state.store, is_lost=is_lost, is_late=is_late)
        queue = state.queue if envelope == NONE else tuple(sorted((*state.queue, envelope)))
        facts, problem = self.watched(state, node)
        quiet = state.quiet if facts == state.facts and queue == state.queue else 0
        others = state.procs[:position] + state.procs[position + 1 :]
        lost = state.lost - is_lost
        after = State(store, queue, others, state.calls, state.kills, state.lapses, lost, state.doubles, facts, quiet)
        for then, settled in self._settle(after, child, message):
            yield Action(kind, node, then), settled, problem

    def _settle(self, state: State, node: int, message: int) -> Iterator[tuple[Any, State]]:
        """A process goes on to its next call. An ack is done at once, and so is an end: nothing could come between that
        makes a difference, but for a kill before the ack, and an ack whose reply is lost."""
        request = self.nodes[node].point.request
        if request is None:
            back = message != NONE
            queue = tuple(sorted((*state.queue, message))) if back else state.queue
            yield ("unacked" if back else "ends"), state._replace(queue=queue)
            return
        if request.target != "broker" or request.method == "enqueue":
            procs = tuple(sorted((*state.procs, (node, message, False))))
            yield "", state._replace(procs=procs)
            return
        ended = self.after(node, Answer())
        if self.nodes[ended].point.request is None:
            yield "acks", state
        else:
            for _, settled in self._settle(state, ended, NONE):
                yield "acks", settled
        if state.kills and message != NONE:
            yield "killed", state._replace(kills=state.kills - 1, queue=tuple(sorted((*state.queue, message))))
        if state.lost:
            again = self.after(node, Answer(is_lost=True))
            for _, settled in self._settle(state._replace(lost=state.lost - 1), again, NONE):
                yield "ack lost", settled

    def _faults(self, state: State) -> Iterator[tuple[Action, State, str]]:
        for position, (node, message, _) in enumerate(state.procs):
            if state.lost:
                yield from self._step(state, position, "lost")
            others = state.procs[:position] + state.procs[position + 1 :]
            back = tuple(sorted((*state.queue, message))) if message != NONE else state.queue
            if state.kills:
                yield Action("kill", node), state._replace(kills=state.kills - 1, procs=others, queue=back), ""
            if state.doubles and message != NONE:
                yield Action("double", node), state._replace(doubles=state.doubles - 1, queue=back), ""
        if state.lapses and (state.procs or state.queue) and self._may_pause(state):
            procs = tuple(sorted((node, message, True) for node, message, _ in state.procs))
            store = self.older(state.store, LAPSE)
            yield Action("lapse"), state._replace(lapses=state.lapses - 1, store=store, procs=procs), ""

    def _may_pause(self, state: State) -> bool:
        """Whether leases may lapse now: not before the run is sealed, unless the world is about that."""
        return self.world.pauses_before_seal or ("created", self.run_id) in self.facts[state.facts]

    def _pass_time(self, state: State, problems: Iterable[str]) -> tuple[Action, State, str]:
        """Nothing is left to do, and yet it isn't over: time passes until a sweeper has something to look at."""
        later = [store for store in (self.older(state.store, by) for by in (LAPSE, LONG)) if self.is_due(store)]
        problem = ""
        if not later or state.quiet >= PATIENCE:
            problem = "nothing more ever happens: " + "; ".join(problems)
        self.probes.add("time had to pass")
        store = later[0] if later else state.store
        return Action("quiet"), state._replace(store=store, quiet=state.quiet + 1), problem

    # What must hold

    def watch(self, known: int, request: Request, value: Any, *, is_faulty: bool) -> tuple[int, str]:
        """What a call adds to what is known of the world, and what is wrong with it."""
        facts, problem = self.facts[known], ""
        add: set[Fact] = set()
        drop: set[Fact] = set()
        probe = self.probes.add
        match request.method:
            case "enqueue":
                envelope = self.envelopes[self.envelope_of(request.arguments[0])]
                problem = self._watch_message(envelope, facts, add, is_faulty)
            case "guard":
                tag: Tag = request.arguments[0]
                place = tag.run_id, tag.stage, tag.member
                probe(f"guard says {value}")
                if value == "go" and ("done", *place) in facts:
                    problem = f"{tag} is let run, though it has succeeded"
                if value == "go" and ("cancelled", tag.run_id) in facts:
                    problem = f"{tag} is let run, though its run was cancelled"
                if value == "go" and self.world.fails_fast and any(fact[:2] == ("dead", tag.run_id) for fact in facts):
                    problem = f"{tag} is let run, though another one is dead"
            case "record" if value is not None:
                record: Record = request.arguments[0]
                place = record.tag.run_id, record.tag.stage, record.tag.member
                probe(f"record says {value.word}")
                if value.word == "counts" and record.ending == "succeeded" and not record.nested:
                    # A nested run may tell a cancelled one of its success as often as it wants.
                    if ("done", *place) in facts and ("cancelled", record.tag.run_id) not in facts:
                        problem = f"{record.tag} has succeeded twice"
                    add.add(("done", *place))
                    drop.add(("dead", *place))
                elif value.word == "counts" and record.ending == "dead":
                    add.add(("dead", *place))
            case "create" if value is not None:
                probe(f"create says {value.word}")
                if value.word == "created" and not self.run_id:
                    self.run_id = request.arguments[0]
                if value.word == "created":
                    add.add(("created", request.arguments[0]))
            case "cancel" if value is not None and value.word == "cancelled":
                add.add(("cancelled", request.arguments[0]))
                drop.add(("retried", request.arguments[0]))
            case "retry" if value is not None and value.word == "retried":
                add.add(("retried", request.arguments[0]))
                drop.add(("cancelled", request.arguments[0]))
                drop |= {fact for fact in facts if fact[:2] == ("dead", request.arguments[0])}
            case "delete" if value is not None and value.word == "deleted":
                run_id = request.arguments[0]
                problem = self._wrong_events(run_id, facts)
                # From here on the id is another run's, or nobody's.
                drop |= {fact for fact in facts if f"{fact[1]}~".startswith(f"{run_id}~")}
            case "confirm":
                probe(f"confirm says {value}")
        if isinstance(value, Reply):
            if any(duty.repeated for duty in value.duties):
                probe("a duty was taken over")
            if value.note:
                probe(f"a reply notes {value.note}")
            if request.method not in ("record", "create", "guard"):
                probe(f"{request.method} says {value.word}")
        if not (add or drop):
            return known, problem
        return self.facts_of(facts - drop | add), problem

    def _wrong_events(self, run_id: str, facts: Facts) -> str:
        """What is wrong with the callbacks of a run that is deleted: after that none is sent any more."""
        told = {fact[2] for fact in facts if fact[:2] == ("called", run_id) and fact[2].startswith("on_finish")}
        if run_id == self.run_id and self.world.deletes and len(told) != 1:
            return f"the run is deleted, and on_finish was sent {len(told)} times"
        return ""

    def _watch_message(self, envelope: Envelope, facts: Facts, add: set[Fact], is_faulty: bool) -> str:
        tag, problem = envelope.tag, ""
        fact: Fact
        if isinstance(tag, CallbackTag):
            fact = "called", tag.run_id, tag.duty, tag.index
        else:
            fact = "sent", *envelope.place, tag.epoch, envelope.retries, tag.generation
            for said in ("repeated", "leads"):
                if getattr(tag, said):
                    self.probes.add(f"a message says {said}")
        if fact in facts:
            add.add(("twice", *fact))
            self.probes.add("a message was sent twice")
            if not is_faulty:
                problem = f"{envelope.label} is sent twice, though nothing went wrong"
        add.add(fact)
        if isinstance(tag, Tag):
            problem = problem or self._watch_release(tag, facts | add)
        return problem

    def _watch_release(self, tag: Tag, facts: Facts) -> str:
        sent = {fact[1:4] for fact in facts if fact[0] == "sent"}
        settled = {fact[1:4] for fact in facts if fact[0] in ("done", "dead")}
        before = {place for place in sent if place[:2] == (tag.run_id, tag.stage - 1)}
        if before - settled and self.world.waits_for_all:
            return f"{tag} is sent before {sorted(before - settled)} are settled"
        here = {place for place in sent if place[:2] == (tag.run_id, tag.stage)} - settled
        if self.world.limit is not None and len(here) > self.world.limit:
            return f"{len(here)} members are unsettled, and the limit is {self.world.limit}: {sorted(here)}"
        return ""

    def problems_at_rest(self, state: State) -> tuple[str, ...]:
        """What is wrong with a world in which nothing is left to do."""
        key = state.store, state.facts
        if key not in self.rest_problems:
            self.rest_problems[key] = tuple(self._problems_at_rest(state))
        return self.rest_problems[key]

    def _problems_at_rest(self, state: State) -> Iterator[str]:
        facts = self.facts[state.facts]
        status = self.status(state.store)
        if status is None:
            if any(fact[0] == "created" for fact in facts):
                yield "the run has vanished"
            return
        if status.state not in self.world.ends:
            yield f"the run is {status.state}"
            return
        if ("retried", self.run_id) in facts and status.state != "succeeded":
            yield f"the run is {status.state}, though it was retried"
        with self.at(state.store) as backend:
            for run_id in sorted({fact[1] for fact in facts if fact[0] == "created"}):
                reply = backend.owed(run_id, Caller("nobody", NOW, "none", LEASE))
                if reply.word not in ("clear", "unknown"):
                    yield f"run {run_id} still owes something"
        expected = self.world.ends[status.state]
        if status.state == "succeeded":
            result = self._result(state, len(status.stages) - 1)
            if result not in (expected if isinstance(expected, Either) else (expected,)):
                yield f"the result is {result!r}, and not {expected!r}"
        for event, count in self.world.events.get(status.state, {}).items():
            told = {fact[2] for fact in facts if fact[:2] == ("called", self.run_id) and fact[2].startswith(event)}
            if len(told) != count:
                yield f"{event} was sent {len(told)} times, and not {count}"
        yield from self._wrong_counts(status, facts)
        if self.world.timed:
            yield from self._wrong_timings(state, status)

    def _result(self, state: State, last: int) -> Any:
        with self.at(state.store) as backend:
            line = backend.line(self.run_id, last)
            total = int(line.split(" ")[1])
            marks = backend.results(self.run_id, last, 0, total)
            values = [backend.encoder.decode(mark[1:]) if mark and mark[:1] == b"S" else None for mark in marks]
        return values[0] if "p" not in line.split(" ")[2] else values

    def _wrong_counts(self, status: RunStatus, facts: Facts) -> Iterator[str]:
        for index, stage in enumerate(status.stages):
            done = len({fact for fact in facts if fact[:3] == ("done", self.run_id, index)})
            if stage.succeeded != done:
                yield f"stage {index} counts {stage.succeeded} successes, and {done} were recorded"
            if status.state == "succeeded" and stage.succeeded + stage.dead + stage.skipped != stage.total:
                yield f"stage {index} of {stage.total}: {stage.succeeded} have succeeded, {stage.dead} are dead"

    def _wrong_timings(self, state: State, status: RunStatus) -> Iterator[str]:
        for index, stage in enumerate(status.stages):
            with self.at(state.store) as backend:
                found = backend.look_into(self.run_id, index, 0, MOST_MEMBERS)
            assert found is not None
            assert len(found.members) == (stage.total or 0)
            for one in found.members:
                name = f"member {index}.{one.index}"
                if one.state == "working":
                    yield f"{name} is shown at work, and the run is {status.state}"
                if one.began is not None and one.ended is not None and one.ended < one.began:
                    yield f"{name} has ended at {one.ended}, before it began at {one.began}"
                if one.state == "succeeded" and None in (one.began, one.ended):
                    yield f"{name} has succeeded, and it isn't known when it began and ended: {one.began}, {one.ended}"

    # The search

    def explore(self, most: int | None = None) -> Outcome:
        """Visit all states, or the first `most` of them."""
        with self.laboratory.open():
            return self._explore(most)

    def _explore(self, most: int | None) -> Outcome:
        began = time.process_time()
        first = self.first()
        numbers: dict[State, int] = {first: 0}
        parents: list[tuple[int, Action | None]] = [(NONE, None)]
        depths = [0]
        states = [first]
        backwards: list[list[int]] = [[]]
        rests: list[int] = []
        transitions, violation = 0, None
        ahead = deque([0])
        while ahead and violation is None and (most is None or len(states) < most):
            number = ahead.popleft()
            state, goes_on = states[number], False
            for action, after, problem in self.successors(state):
                transitions += 1
                goes_on = goes_on or action.kind in ("begin", "call", "quiet")
                known = numbers.get(after)
                if known is None or problem:
                    known = numbers.setdefault(after, len(states))
                    if known == len(states) or problem:
                        states.append(after)
                        parents.append((number, action))
                        depths.append(depths[number] + 1)
                        backwards.append([])
                        ahead.append(len(states) - 1)
                if problem:
                    violation = Violation(problem, tuple(self._story(len(states) - 1, states, parents)))
                    break
                if action.kind in ("begin", "call", "quiet") and action.then not in ("killed", "ack lost"):
                    backwards[known].append(number)
            if not goes_on:
                rests.append(number)
        if violation is None and not ahead:
            violation = self._never_at_rest(states, parents, backwards, rests)
        return Outcome(
            self.world.name, self.bounds, len(states), transitions, len(rests), max(depths),
            time.process_time() - began, frozenset(self.probes), violation,
        )  # fmt: skip

    def _never_at_rest(
        self,
        states: list[State],
        parents: list[tuple[int, Action | None]],
        backwards: list[list[int]],
        rests: list[int],
    ) -> Violation | None:
        """A state from which no rest can be reached any more without another fault."""
        good, ahead = set(rests), deque(rests)
        while ahead:
            for before in backwards[ahead.popleft()]:
                if before not in good:
                    good.add(before)
                    ahead.append(before)
        lost = next((number for number in range(len(states)) if number not in good), None)
        if lost is None:
            return None
        story = tuple(self._story(lost, states, parents))
        return Violation("from here on it goes on for ever, and never comes to rest", story)

    def _story(self, number: int, states: list[State], parents: list[tuple[int, Action | None]]) -> list[str]:
        steps: list[str] = []
        while True:
            before, action = parents[number]
            if action is None:
                break
            steps.append(self._tell(states[before], action))
            number = before
        return steps[::-1]

    def _tell(self, state: State, action: Action) -> str:
        """A step, as it is told to people."""
        if action.kind == "lapse":
            return "time passes: all leases lapse"
        if action.kind == "quiet":
            return "nothing is left to do: time passes until the sweeper has something to look at"
        node = self.nodes[action.node]
        who = f"[{node.start.name.rsplit(' #', 1)[0]}]"
        if action.kind == "kill":
            return f"{who} is killed" + (", and its message comes again" if node.start.kind == "worker" else "")
        if action.kind == "double":
            return f"{who} pauses for long, and its message is given to another worker, too"
        request = node.point.request
        assert request is not None
        text = f"{who} {_said(self, request)}"
        if request.target == "store":
            _, value, error = self.call(state.store, request)
            text += f" -> {_reply(value) if error is None else repr(error)}"
        if action.kind == "lost":
            text += "; the reply is lost"
        return (
            text
            + {
                "": "",
                "acks": "; the message is acked",
                "killed": "; it is killed before the ack, and its message comes again",
                "ack lost": "; the message is acked, but the reply is lost",
                "unacked": "; it ends without an ack, and its message comes again",
                "ends": "; it ends",
            }[action.then]
        )


def _said(explorer: Explorer, request: Request) -> str:
    if request.method == "enqueue":
        return f"sends {explorer.envelopes[explorer.envelope_of(request.arguments[0])].label}"
    shown = []
    for argument in request.arguments:
        if isinstance(argument, Record):
            shown.append(f"{argument.tag.stage}.{argument.tag.member} of {argument.tag.run_id}: {argument.ending}")
        elif isinstance(argument, Tag):
            shown.append(f"{argument.stage}.{argument.member} of {argument.run_id}")
        elif isinstance(argument, Caller):
            continue
        elif hasattr(argument, "lease"):
            shown.append(argument.id)
        elif isinstance(argument, str | int | range):
            shown.append(str(argument))
    return f"{request.method}({', '.join(shown)})"


def _reply(value: Any) -> str:
    if isinstance(value, Reply):
        duties = ", ".join(duty.id for duty in value.duties)
        return value.word + (f", owes {duties}" if duties else "") + (f" ({value.note})" if value.note else "")
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
