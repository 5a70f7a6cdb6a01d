"""A store of runs: all parts of the contract, and what is the same in every store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dramatiq import Encoder, get_encoder
from dramatiq.common import current_millis

from ..findings import Finding
from ..register import Register
from .hints import Hints
from .index import Index
from .reading import Reading
from .transitions import Transitions


class ClutchBackend(Transitions, Reading, Hints, Index, Register):
    """Keeps the state of runs. The docstring of `dramatiq_clutch.backend` says what holds for every method."""

    def __init__(self, *, namespace: str = "dramatiq-clutch", encoder: Encoder | None = None) -> None:
        self.namespace = namespace
        self._encoder = encoder

    @property
    def encoder(self) -> Encoder:
        """The encoder of results: the one that was given, or else Dramatiq's global encoder at the time of use."""
        return self._encoder or get_encoder()

    def encode(self, result: Any) -> bytes:
        """A result as bytes. Like those of Dramatiq's Results, it may be any value. Raises what the encoder raises."""
        return self.encoder.encode(result)

    def warnings(self) -> Sequence[str]:
        """What is wrong with the settings of the store's server. A worker logs each text when it boots. Raises
        NotConfigured if the server can't keep runs at all; then the worker doesn't boot."""
        return ()

    def fitness(self) -> Iterable[Finding]:
        """What there is to be said of the store's server, good or bad, for `examine`. It takes what the server lets its
        user ask. Raises StateUnavailable."""
        return [Finding("warning", text) for text in self.warnings()]

    def now(self) -> int:
        """The time that callers pass as `now`, in UNIX milliseconds: the system's, unless the store has a clock of its
        own."""
        return current_millis()
