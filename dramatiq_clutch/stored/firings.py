"""What is kept of a run's callbacks: whom each event calls; and of each event's last firing, what has come of it.

Both are in the run's head. The scripts write firings, too (`lib/firings.lua`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote

from ..errors import DamagedState
from .duties import CallBack
from .messages import callback_in
from .places import CallbackTag
from .plan import EVENTS, Spec

#: The queue that isn't written down: Dramatiq's own default.
DEFAULT_QUEUE = "default"

#: How a callback's message has ended: its actor `succeeded`, or no more attempts will come (`dead`); or it is `unsent`,
#: because it couldn't be sent, and won't be.
CallbackEnding = Literal["succeeded", "dead", "unsent"]

#: The letters that stand for these.
LETTERS: Mapping[CallbackEnding, str] = {"succeeded": "S", "dead": "D", "unsent": "U"}

ENDINGS = {letter: ending for ending, letter in LETTERS.items()}

#: Whom a callback calls: an actor and its queue, by their names. None where its row can't be read.
Call: TypeAlias = tuple[str | None, str | None]

FIRING = re.compile(r"(\d+) (\d+):(\d+) (\S*) (\d+) (-|!?\d+)((?: \S+)*)", re.ASCII)
ENDED = re.compile(r"(\d+)([SDU])(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Firing:
    """The last time that an event has fired: its callbacks were owed by one duty.

    `count`: how often the event has fired in this run, with this time. `stage`, `number` and `generation` are those of
    the duty. `owed`: since when it is owed, or was. `sent`: when it was done; None as long as that isn't known.
    `failed`: when it was given up, because something couldn't be sent. `ended`: how the messages that have ended did,
    and when, by their positions among those of the event. All times are in UNIX milliseconds.

    For example, `2 0:4 76543210 1700000000100 1700000000200 0S1700000000900` is ``Firing(2, 0, 4, "76543210",
    1700000000100, 1700000000200, None, {0: ("succeeded", 1700000000900)})``.
    """

    count: int
    stage: int
    number: int
    generation: str
    owed: int
    sent: int | None = None
    failed: int | None = None
    ended: Mapping[int, tuple[CallbackEnding, int]] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, text: str) -> Firing:
        """Raises DamagedState for what no release writes. Words that a newer release has added are left alone."""
        found = FIRING.fullmatch(text)
        if found is None:
            raise DamagedState(f"what is kept of callbacks can't be read: {text!r}")
        count, stage, number, generation, owed, sent, rest = found.groups()
        words = filter(None, map(ENDED.fullmatch, rest.split()))
        ended = {int(word[1]): (ENDINGS[word[2]], int(word[3])) for word in words}
        failed = int(sent[1:]) if sent.startswith("!") else None
        done = int(sent) if sent.isdecimal() else None
        return cls(int(count), int(stage), int(number), generation, int(owed), done, failed, ended)

    def duty(self, event: str) -> str:
        """The id of its duty."""
        return CallBack(self.stage, event, self.number).id

    def message_id(self, run_id: str, event: str, index: int, actor: str) -> str:
        """The id of the message to one of the event's callbacks."""
        return CallbackTag(run_id, self.generation, self.duty(event), index, actor).message_id


@dataclass(frozen=True, slots=True)
class Firings:
    """What a store knows of a run's callbacks.

    `calls`: whom the events call, by event. `last`: each event's last firing, if it has fired. `owed`: the events whose
    last firing is still owed. `is_complete`: each firing is known; an older release has noted none.
    """

    calls: Mapping[str, tuple[Call, ...]]
    last: Mapping[str, Firing]
    owed: frozenset[str] = frozenset()
    is_complete: bool = True


def calls_of(spec: Spec) -> str:
    """Whom the callbacks of a run call, as its head keeps it: ``on_failed=notify on_finish=log,notify@low``. A queue is
    left out if it is Dramatiq's default. Each name is percent-encoded."""
    named = ((event, map(_call_of, spec.callbacks[event])) for event in EVENTS if event in spec.callbacks)
    return " ".join(f"{event}={','.join(map(_written, calls))}" for event, calls in named)


def calls_in(text: str, events: str) -> dict[str, tuple[Call, ...]]:
    """The opposite of `calls_of`. Where the `text` is empty, because an older release has begun the run, it is known
    from the field `events` how many callbacks there are of each event, and not whom they call."""
    if not text:
        counts = (word.partition("=") for word in events.split())
        return {event: ((None, None),) * int(count or 1) for event, _, count in counts}
    words = (word.partition("=") for word in text.split())
    return {event: tuple(map(_read, calls.split(","))) for event, _, calls in words}


def calls_in_spec(spec: Spec) -> dict[str, tuple[Call, ...]]:
    """The same of a run whose spec is still there."""
    return {event: tuple(map(_call_of, rows)) for event, rows in spec.callbacks.items()}


def _call_of(row: bytes) -> Call:
    """It only informs: so a row that can't be read is no error here."""
    try:
        message, _ = callback_in(row)
    except DamagedState:
        return None, None
    return str(message.actor_name), str(message.queue_name)


def _written(call: Call) -> str:
    actor, queue = (quote(name or "", safe="", errors="replace") for name in call)
    return actor if queue in ("", DEFAULT_QUEUE) else f"{actor}@{queue}"


def _read(call: str) -> Call:
    actor, _, queue = call.partition("@")
    return (unquote(actor), unquote(queue) or DEFAULT_QUEUE) if actor else (None, None)
