"""Options that all messages of a run carry: where their values come from, and how they are laid onto a message.

A run's values are kept in its spec, because messages are sent wherever something follows from something else: in a
worker that has just finished a job of another stage, in a sweeper, or where somebody calls `retry()`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any

from dramatiq import Broker, Message, MessageProxy
from dramatiq.logging import get_logger
from dramatiq.middleware import MiddlewareError

from .about import Context
from .errors import HookFailed
from .stored.places import OPTION
from .stored.plan import Plan, from_row

logger: logging.Logger = get_logger(__name__)

#: How many bytes the carried options of a run may have at most, as JSON in ASCII. They travel with each message.
MOST_BYTES = 4_096

#: The option that names the others that a message carries, so that they are known where it is sent again: when it is
#: due, or for its next attempt.
NAMES = "clutch_carries"

#: Options by which Dramatiq and this package deliver a message, and which so belong to one message alone.
TAKEN = frozenset(
    (
        *(OPTION, NAMES, "delay", "eta", "redis_message_id", "requeue_timestamp", "retries", "traceback"),
        *("group_callback_uuid", "group_callbacks", "pipe_ignore", "pipe_target"),
    )
)

#: The message that this thread (or coroutine) works on, of a clutch or not.
_present: ContextVar[MessageProxy | None] = ContextVar("dramatiq_clutch_message", default=None)


@dataclass(frozen=True)
class Carrying(Message[Any]):
    """A message with options that are `carried`. Hooks find them among its options; but what a `before_enqueue` makes
    of them isn't sent, because it is often called where nothing is known any more of what the run was started for."""

    carried: dict[str, Any] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        self.options.update(self.carried)  # so that `after_enqueue` sees what was sent
        known: dict[str, Any] = super().asdict()
        del known["carried"]
        return known


def laid(message: Message[Any], carried: Context | None) -> Message[Any]:
    """The message with a run's carried options. Those that a written message has itself stay as they are."""
    own = message.options
    added = {name: carried[name] for name in carried if name not in own} if carried else {}
    if not added:
        return message
    added[NAMES] = list(added)
    return Carrying(**{**vars(message), "options": {**own, **added}}, carried=added)


def keep(message: MessageProxy) -> None:
    """Have a message that has come carry the same options where Dramatiq sends it again."""
    options, known = message.options, getattr(message, "_message", None)
    names = options.get(NAMES)
    if isinstance(names, list) and type(known) is Message:
        carried = {name: options[name] for name in (*map(str, names), NAMES) if name in options}
        own = {one.name: getattr(known, one.name) for one in fields(known)}  # others may have put more onto it
        message._message = Carrying(**own, carried=carried)  # noqa: SLF001 (what Retries and delays send)


def valid_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of options to be carried. Raises TypeError for what isn't a collection of strings, and ValueError for
    an option that belongs to one message alone."""
    given: Any = names
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(
            f"carry is {given!r}; it takes a list of the names of options, such as carry=['correlation_id']"
        )
    found = tuple(dict.fromkeys(given))
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"carry has {name!r} in it; each name of an option is a string")
    _check_names(found)
    return found


def given(carry: Mapping[str, Any]) -> Context:
    """The options that a user gives a run to carry. Raises TypeError for what JSON can't hold as it is, and ValueError
    for an option that belongs to one message alone, or for too many bytes."""
    values = Context.given(carry, "carry")
    _check_names(values)
    check_size(values)
    return values


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name in TAKEN:
            raise ValueError(f"the option {name!r} can't be carried: it belongs to one message alone")


def check_size(carried: Context) -> None:
    """Raises ValueError for too many bytes."""
    size = len(carried.to_json())
    if size > MOST_BYTES:
        raise ValueError(
            f"the options {', '.join(carried)}, which the run's messages carry, have {size:,} bytes as JSON, and may "
            f"have {MOST_BYTES:,}, because they travel with each message: carry an id, and keep what is large elsewhere"
        )


# What the messages of a new run carry


def begin(message: MessageProxy | None) -> None:
    """Note which message is worked on from here on."""
    _present.set(message)


def present() -> MessageProxy | None:
    """The message that is worked on, of a clutch or not, until its attempt is recorded."""
    return _present.get()


def captured(broker: Broker, names: Sequence[str], row: bytes | None) -> Context:
    """The values that options of these names have here and now; those without a value, or None, are left out.

    They are what the middlewares' `before_enqueue` puts into a message, for which the first job's (its row) is shown to
    them; the copy isn't sent. What none puts there is taken from the message that is worked on. A middleware that has a
    method `clutch_carried` may have it return more options with their values. Raises HookFailed, TypeError for a value
    that JSON can't hold, and ValueError for too many bytes.
    """
    values = dict[str, Any]()
    for known in broker.middleware:
        if hasattr(known, "clutch_carried"):
            try:
                values |= known.clutch_carried()
            except Exception:  # as for a hook of Dramatiq: a run doesn't fail of who looks on
                logger.exception("%r couldn't say what is to be carried", known)
    if names:
        message = _present.get()
        here = {} if message is None else message.options
        put = {**{name: here.get(name) for name in names}, **_put(broker, row)}
        values |= {name: put[name] for name in names if put.get(name) is not None}
    if not values:
        return Context()
    found = Context.given(values, "what a message carries")
    check_size(found)
    return found


def _put(broker: Broker, row: bytes | None) -> dict[str, Any]:
    """The options that a message has after `before_enqueue`, apart from those that have no value."""
    message = _first_message(row)
    if message is None:
        return {}
    shown: Message[Any] = Message(
        message.queue_name, message.actor_name, message.args, message.kwargs, {**message.options}
    )
    own = set(message.options)
    try:
        broker.emit_before("enqueue", shown, None)
    except MiddlewareError as error:
        raise HookFailed(f"a middleware's before_enqueue doesn't let the message through: {error!r}") from error
    return {name: value for name, value in shown.options.items() if value is not None and name not in own}


def _first_message(row: bytes | None) -> Message[Any] | None:
    step = None if row is None else from_row(row)
    while isinstance(step, Plan):
        step = from_row(step.rows[0]) if step.rows else None
    return step
