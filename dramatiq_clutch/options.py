"""What a user says of a clutch as a whole."""

from __future__ import annotations

import copyreg
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dramatiq import Broker

from . import terms
from .about import Context
from .callbacks import CALLBACKS, Callbacks, OnSuccess, kept, own, shown
from .shortening import shortened
from .signatures import Extra
from .steps import Description, Given, Stage, known_brokers

_Same = TypeVar("_Same", bound="Options")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Options(Description):
    """A description of work with its options, checked. `clutch.Clutch` says what each of them means."""

    fail_fast: bool = False
    keep_results: bool = False
    timings: bool | None = None
    on_failure: Callbacks | None = None
    on_death: Callbacks | None = None
    on_success: OnSuccess | None = None
    on_failed: Callbacks | None = None
    on_finish: Callbacks | None = None
    callback_queue: str | None = None
    broker: Broker | None = None
    context: Mapping[str, Any] | None = None
    stages: tuple[Stage, ...] = dataclasses.field(default=(), init=False)
    pending: int = dataclasses.field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        broker: Any = self.broker
        if broker is not None and not isinstance(broker, Broker):  # it isn't shown: an address may have a password
            raise TypeError(f"broker takes a broker of Dramatiq's, not a value of type {type(broker).__name__}")
        object.__setattr__(self, "deadline", terms.valid_deadline(self.deadline))
        if self.context is not None:
            object.__setattr__(self, "context", Context.given(self.context, "context"))
        for option in CALLBACKS:
            given = self._given(option, None)
            object.__setattr__(self, option, kept(getattr(self, option), given, event=option))

    def __reduce__(self) -> tuple[Any, ...]:
        names = [field.name for field in dataclasses.fields(self)]  # as a frozen dataclass with slots expects its state
        state = [None if name == "broker" else getattr(self, name) for name in names]
        return copyreg.__newobj__, (type(self),), state  # type: ignore[attr-defined]

    def __copy__(self: _Same) -> _Same:
        return self

    def __deepcopy__(self: _Same, memo: dict[int, Any]) -> _Same:
        return self  # a clutch is immutable

    def _settings(self) -> Iterator[str]:
        yield from super(Options, self)._settings()  # without arguments it doesn't work in a dataclass with slots
        if self.fail_fast:
            yield "fail_fast=True"
        if self.keep_results:
            yield "keep_results=True"
        if self.timings is not None:
            yield f"timings={self.timings}"
        if self.callback_queue is not None:
            yield f"callback_queue={shortened(repr(self.callback_queue), 40)}"
        yield from (f"{event}={shown(callbacks)}" for event, callbacks in own(self).items())

    def _given(self, what: str, extra: Extra | None) -> Given:
        return Given(what, self.broker, known_brokers(self.broker), extra)
