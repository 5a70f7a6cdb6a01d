"""Starts a run: writes its plan, makes room under its id where that was asked for, seals the plan, and does what the
run owes."""

from __future__ import annotations

import dataclasses
import logging
import re
import reprlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from uuid import uuid4

from dramatiq import Broker
from dramatiq.logging import get_logger

from .about import Context
from .backend import Caller, Reply
from .carrying import captured, check_size
from .engine import Engine, engine_of
from .errors import OutcomeUnknown, RunAtWork, RunIdTaken, Unavailable, foreign_run, is_expected
from .handover import delete, hand_over
from .planning import NOTHING, Sees, chunks, read, with_defaults
from .run import Run
from .steps import Description, soonest_of
from .stored import owners
from .stored.duties import SendMembers
from .stored.fingerprints import Fingerprint
from .stored.places import new_generation
from .stored.plan import Plan
from .tokens import new_token

#: What becomes of a run() whose id is taken already.
IfExists: TypeAlias = Literal["join", "refuse", "restart", "replace"]

#: For how long there is one run under an id.
Unique: TypeAlias = Literal["always", "while_running"]

#: What an id that a user gives must match. `~` is used in the ids of nested runs, and braces have a meaning in Redis
#: Cluster.
RUN_ID = re.compile(r"[A-Za-z0-9_.:@/+=-]{1,200}")

logger: logging.Logger = get_logger(__name__)


class _NoArgs:
    def __repr__(self) -> str:
        return "<none>"


#: Stands for args that aren't given, for they may be None.
NO_ARGS: Any = _NoArgs()


class Draft(NamedTuple):
    """A plan that is written down and not sealed yet: its `name`; the `plan`, but for its rows, which are written; its
    `claim`; the `caller` that is to seal it; and for when the run is `put_down` in the index (UNIX milliseconds)."""

    name: str
    plan: Plan
    claim: str
    caller: Caller
    put_down: int


def start(
    clutch: Description,
    broker: Broker,
    *,
    delay: int | None,
    run_id: str | None,
    if_exists: IfExists | None,
    unique: Unique | None,
    args: Any,
    context: Context | None,
    tags: Sequence[str],
    carry: Context | None,
    keeps: bool,
) -> Run:
    """Start a run of this clutch: see `Clutch.run`. The `delay` is in milliseconds; `args` are NO_ARGS if there are
    none; `keeps`: the results of all stages are kept."""
    _check(run_id, if_exists, unique)
    engine = engine_of(broker)
    more: dict[str, Any] = {"start_at": engine.now() + delay if delay else None, "context": context, "carry": carry}
    claimed, run_id = run_id is not None, run_id or str(uuid4())
    while True:
        draft = _draft(engine, clutch, run_id, claimed=claimed, args=args, **more)
        if claimed:
            _make_room(engine, run_id, if_exists or "join")
        try:
            says = {"frees": unique == "while_running", "keeps": keeps}
            reply = engine.create(
                run_id, draft.plan, draft.caller, claim=draft.claim, draft=draft.name, tags=tags, **says
            )
        except Unavailable as error:
            raise OutcomeUnknown(f"run {run_id!r} may have started, or not: {error}", run_id) from error
        if reply.word != "taken" or not _may_make_room(engine, run_id, if_exists):
            break
    if reply.word == "foreign":
        raise foreign_run(run_id, reply.note, engine.application)
    if reply.word == "taken":
        raise RunIdTaken(_taken(run_id, if_exists))
    if reply.word == "exists" and if_exists == "refuse":
        raise RunIdTaken(f"this clutch was run as {run_id!r} already, and is to be refused then (if_exists='refuse')")
    _hand_over(engine, run_id, reply, draft)
    run = Run(run_id, broker=broker)
    run.started = reply.word == "created"
    return run


def _taken(run_id: str, if_exists: IfExists | None) -> str:
    """The text of an error that says that something else has this id, and what there is to be done."""
    what = "another clutch, or this one with other args,"
    if if_exists == "restart":
        return (
            f"{what} is at work as {run_id!r}: wait until it is at rest, give this one an id of its own, or say "
            "run(..., if_exists='replace') to have that cancelled"
        )
    return (
        f"{what} was run as {run_id!r}: give this one an id of its own; or say run(..., if_exists='restart') to have "
        "it take the place of one at rest, if_exists='replace' to have that cancelled where it is at work"
    )


def _check(run_id: Any, if_exists: Any, unique: Any) -> None:
    """Raises TypeError or ValueError for what `run()` doesn't take."""
    if run_id is not None and not isinstance(run_id, str):
        raise TypeError(f"run_id is {run_id!r}; it takes a string, of 1 to 200 letters, digits and _.:@/+=-")
    if run_id is not None and not RUN_ID.fullmatch(run_id):
        raise ValueError(f"run_id {run_id!r} isn't one: it takes 1 to 200 letters, digits and _.:@/+=-")
    for option, given, kind in (("if_exists", if_exists, IfExists), ("unique", unique, Unique)):
        if given is not None and given not in get_args(kind):
            raise ValueError(f"{option} is {given!r}; it is one of {', '.join(map(repr, get_args(kind)))}")
        if given is not None and run_id is None:
            raise ValueError(
                f"{option}={given!r} says what becomes of another run of the same id, so it needs a run_id: without "
                "one, each run gets an id of its own"
            )


def _draft(
    engine: Engine, clutch: Description, run_id: str, *, claimed: bool, args: Any, carry: Context | None, **more: Any
) -> Draft:
    """Write the rows of the clutch's plan; `more` is for `read`."""
    sees, item = (NOTHING, None) if args is NO_ARGS else (Sees.args(args), _encoded(engine, args))
    spec, lines, rows = read(clutch, engine.broker, sees=sees, **more)
    spec = dataclasses.replace(spec, generation=new_generation(), item=item)
    # What the middleware adds isn't part of the clutch: it makes no other claim on an id.
    stored = with_defaults(spec, clutch, engine.broker, engine.defaults)
    fingerprint, name, caller = Fingerprint(engine.backend.encoder), new_token(), engine.caller(owners.call("run"))
    carried: Context | None = None
    put_down = 0
    for offset, chunk in chunks(rows):
        if carried is None:
            carried = captured(engine.broker, engine.carry, next(iter(chunk), None)).overlaid(carry)
            check_size(carried)
        caller = caller._replace(now=engine.now())
        times: dict[str, Any] = {"run_ttl": engine.run_ttl, "soonest": soonest_of(clutch)}
        put_down = engine.backend.draft(run_id, name, offset, chunk, caller, **times)
        if claimed:
            fingerprint.add(chunk)
    stored = dataclasses.replace(stored, carried=carried or None)
    claim = fingerprint.of(spec, lines) if claimed else ""
    return Draft(name, Plan(stored, tuple(lines), ()), claim, caller, put_down)


def _encoded(engine: Engine, args: Any) -> bytes:
    """The args of a run as bytes. Raises TypeError if they can't be encoded."""
    try:
        return engine.backend.encode(args)
    except Exception as error:  # an encoder may raise anything
        name = type(engine.backend.encoder).__name__
        raise TypeError(f"args is {reprlib.repr(args)}, which {name} can't encode: {error}") from error


def _make_room(engine: Engine, run_id: str, if_exists: IfExists) -> None:
    """Delete what has the id, where that was asked for by this call, or by the run that has it (`frees`).

    All steps name the generation of the run that was found. So of several callers that make room at the same time none
    touches the run that another one of them starts then; they join it. Raises ForeignRun, RunAtWork and Unavailable.
    """
    first = ""
    while True:
        (found,) = engine.backend.occupants([run_id])
        first = first or (found.generation if found else "")
        if found is None or found.generation != first:
            return
        if found.application != engine.application:
            raise foreign_run(run_id, found.application, engine.application)
        if found.state != "running":
            if not (found.frees or if_exists in ("restart", "replace")):
                return
            try:
                delete(engine, run_id, first)
            except RunAtWork:
                (now,) = engine.backend.occupants([run_id])
                if now is not None and now.generation == first and now.state != "running":
                    raise
                continue  # somebody has retried it meanwhile
            return
        if if_exists != "replace":
            return
        caller = engine.caller(owners.call("cancel"))
        engine.look_again(run_id, caller.now + caller.lease_ms)
        reply = engine.backend.cancel(run_id, caller, generation=first)
        hand_over(engine, run_id, reply, caller)


def _may_make_room(engine: Engine, run_id: str, if_exists: IfExists | None) -> bool:
    """Whether another clutch's run, which has got the id since room was made, may have to make room in its turn."""
    if if_exists == "replace":
        return True
    (found,) = engine.backend.occupants([run_id])
    return if_exists == "restart" and (found is None or found.state != "running")


def _hand_over(engine: Engine, run_id: str, reply: Reply, draft: Draft) -> None:
    """Do what the new run owes. Whatever error that meets, the run is stored, so a sweeper does it otherwise."""
    try:
        hand_over(engine, run_id, reply, draft.caller)
        # If everything that was owed is done, a sweeper needs to look only after the run has been quiet for long. It
        # must look sooner if leaders or sweepers have shares to send, or if another call has created the run.
        leads = any(isinstance(duty, SendMembers) and duty.leaders for duty in reply.duties)
        if reply.word == "created" and reply.note != "more" and not leads:
            engine.look_when_quiet(run_id, reply.by, instead=draft.put_down)
    except Exception as error:
        logger.warning(
            "Run %s is stored; a worker will send its first stage: %r", run_id, error, exc_info=not is_expected(error)
        )
