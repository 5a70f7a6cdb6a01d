"""What can be read of a run that has an id."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from ..stored.firings import Firings
from ..stored.formats import Snapshot, Standing
from ..stored.places import Place
from .values import Occupant


class Reading(abc.ABC):
    """The part of a store that looks at runs, and changes nothing."""

    @abc.abstractmethod
    def snapshot(self, run_id: str) -> Snapshot | None:
        """How the run stands at one moment; None if there is no such run. Of a stage that has nested runs, the first
        100 members that aren't settled are its `unsettled`."""

    @abc.abstractmethod
    def how_far(self, places: Sequence[Place]) -> Sequence[float]:
        """How far the runs nested at these places are, each by itself: 0.0 for one that hasn't started, or for a place
        where a job stands; 1.0 for one that has succeeded, also if it is gone since (see `status.part_done`)."""

    # The following methods take the run's `generation`, and find nothing of another one. Without it they first look up
    # the generation of the run that has the id.

    @abc.abstractmethod
    def generation(self, run_id: str) -> str | None:
        """The run's generation, which tells it from others that have had its id; None if there is no such run."""

    @abc.abstractmethod
    def spec(self, run_id: str, *, generation: str = "") -> bytes | None:
        """The run's encoded `Spec`, which never changes; None if there is no such run."""

    @abc.abstractmethod
    def context(self, run_id: str, *, generation: str = "") -> bytes | None:
        """The run's context as JSON; empty if it has none, and None if there is no such run."""

    @abc.abstractmethod
    def firings(self, run_id: str, *, generation: str = "") -> Firings | None:
        """Which callbacks the run has, and what is known of when they were owed and sent; None if there is no such run.
        A firing is noted in the step that causes it, and that it was sent in the step that confirms its duty, so it
        counts once. It is known for as long as the run's status. Raises NewerRelease or DamagedState."""

    @abc.abstractmethod
    def line(self, run_id: str, stage: int, *, generation: str = "") -> str | None:
        """The `StageLine` of a stage, as a string; None if there is none."""

    @abc.abstractmethod
    def lines(self, run_id: str, count: int, *, generation: str = "") -> Sequence[str]:
        """The lines of the first stages, so many of them; none if there is no such run."""

    @abc.abstractmethod
    def keeps(self, run_id: str, *, generation: str = "") -> bool:
        """Whether the results of all stages stay as long as the run, and not only as long as a stage may read them."""

    @abc.abstractmethod
    def rows(self, run_id: str, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        """The rows `start` ≤ i < `end` of the run's plan; fewer if they are gone."""

    @abc.abstractmethod
    def items(self, run_id: str, stage: int, start: int, end: int, *, generation: str = "") -> Sequence[bytes]:
        """The items `start` ≤ i < `end` that `write_items` has written; fewer if they are gone."""

    @abc.abstractmethod
    def results(
        self, run_id: str, stage: int, start: int, end: int, *, generation: str = "", halted: bool = False
    ) -> Sequence[bytes | None]:
        """The fields of the members `start` ≤ i < `end`: `S` and the encoded result of one that has succeeded; another
        value for one that had an attempt without success; None for one that had no attempt (see
        `stored/formats.py`). Those of a cancelled run's present stage are `halted`: without that they aren't found."""

    @abc.abstractmethod
    def standing(
        self, run_id: str, stage: int, members: Sequence[int], *, generation: str = ""
    ) -> Sequence[Standing | None]:
        """How these members stand; None for one that has had no attempt."""

    @abc.abstractmethod
    def failures(self, run_id: str, stage: int, *, generation: str = "") -> Sequence[tuple[int, str]]:
        """The dead members of a stage, each with the details of its failure, in the order in which they were written.
        Of a stage that was over before the last one, only those that a status lists: a run keeps its first 100."""

    @abc.abstractmethod
    def nested(self, run_id: str, stage: int, members: Sequence[int], *, generation: str = "") -> Mapping[int, bytes]:
        """The plans that these members of a stage have nested, by member. Members that have nested none are left
        out."""

    @abc.abstractmethod
    def at_rest(self, run_ids: Sequence[str]) -> Sequence[bool]:
        """Whether each of these runs is at rest or gone. It is also true for a run of a newer format, because reading
        such a run raises the error that says so."""

    @abc.abstractmethod
    def occupants(self, run_ids: Sequence[str]) -> Sequence[Occupant | None]:
        """Who has each of these ids; None for an id that is free, or that a run is only kept from starting under."""
