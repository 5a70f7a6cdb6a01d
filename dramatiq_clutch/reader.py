"""Reads what is stored of a run: its plan, its results, and the results that a stage sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .about import Context
from .backend import ClutchBackend
from .errors import DamagedState, HandOverFailed, ResultsGone, RunNotFound
from .failures import JobFailure, failure_from
from .status import RunStatus, status_from
from .stored.formats import result_in
from .stored.places import Place
from .stored.plan import Spec, StageLine, stage_in

#: How many results are read at a time where they are given one after the other.
CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what a store keeps, and decodes it."""

    backend: ClutchBackend

    def status(self, run_id: str, *, look_inside: bool = False) -> RunStatus | None:
        """How a run stands; None if there is no such run. To `look_inside` takes two round trips more where the present
        stage has nested runs: then they count by how far they are."""
        snapshot = self.backend.snapshot(run_id)
        if snapshot is None:
            return None
        head, unsettled = snapshot["head"], snapshot["unsettled"] if look_inside else ()
        stage, generation = int(head["stage"]), head.get("gen", "")
        places = [Place(run_id, stage, member, generation=generation) for member in unsettled]
        return status_from(run_id, snapshot, nested=sum(self.backend.how_far(places)) if places else 0.0)

    def spec(self, run_id: str, generation: str) -> Spec:
        """The run's spec. Raises RunNotFound, DamagedState or NewerRelease."""
        data = self.backend.spec(run_id, generation=generation)
        if data is None:
            raise RunNotFound(f"there is no run {run_id!r} (any more)")
        return Spec.from_bytes(data)

    def context(self, run_id: str, generation: str = "") -> Context:
        """The run's context. Raises RunNotFound or DamagedState."""
        stored = self.backend.context(run_id, generation=generation)
        if stored is None:
            raise RunNotFound(f"there is no run {run_id!r} (any more)")
        try:
            return Context.from_json(stored or b"{}")
        except (ValueError, TypeError) as error:
            raise DamagedState(f"the context of run {run_id!r} can't be read: {error}") from error

    def line(self, run_id: str, stage: int, generation: str) -> StageLine:
        """The line of a stage. Raises ResultsGone if there is none, and DamagedState."""
        line = self.backend.line(run_id, stage, generation=generation)
        if line is None:
            raise ResultsGone(f"the results of stage {stage} of run {run_id!r} are gone: it has expired")
        return StageLine.parse(line)

    def stage_results(self, run_id: str, stage: int, generation: str) -> tuple[StageLine, list[Any]]:
        """The line of a stage that is complete, and its decoded results in written order. Raises ResultsGone."""
        line = self.line(run_id, stage, generation)
        return line, self.results(run_id, stage, generation, line, 0, line.total or 0)

    def results(self, run_id: str, stage: int, generation: str, line: StageLine, start: int, end: int) -> list[Any]:
        """The decoded results of the members `start` ≤ i < `end`; None for one that is dead or was skipped, where the
        stage allows that. Raises ResultsGone or DamagedState."""
        found = self.backend.results(run_id, stage, start, end, generation=generation)
        if line.enough is not None and self._is_there(run_id, stage, generation, line, found):
            found = [b"" if field is None else field for field in found]  # skipped before it had an attempt
        return [self._result(run_id, stage, index, field, line) for index, field in enumerate(found, start)]

    def iter_results(self, run_id: str, stage: int, generation: str) -> Iterator[Any]:
        """The results of a stage that is complete, one after the other; read some at a time. Raises what `results`
        raises."""
        line = self.line(run_id, stage, generation)
        for start in range(0, line.total or 0, CHUNK):
            yield from self.results(run_id, stage, generation, line, start, min(start + CHUNK, line.total or 0))

    def partial_results(self, run_id: str, stage: int | str | None) -> dict[int, Any] | None:
        """The results that there are of a stage, by member; None if there is no such run. Raises ValueError if it has
        no such stage, and ResultsGone if the stage is over and its results are gone."""
        snapshot = self.backend.snapshot(run_id)
        if snapshot is None:
            return None
        head, found = snapshot["head"], dict[int, Any]()
        lines = [StageLine.parse(head[f"s{index}"]) for index in range(int(head["stages"]))]
        present = int(head["stage"])
        wanted = present if stage is None else stage_in(lines, stage)
        total, halted = (lines[wanted].total or 0 if lines else 0), head["state"] == "cancelled" and wanted == present
        is_gone = total > 0 and (wanted < present or head["state"] == "succeeded")
        for start in range(0, total, CHUNK):
            end = min(start + CHUNK, total)
            fields = self.backend.results(run_id, wanted, start, end, generation=head["gen"], halted=halted)
            results = [(index, result_in(field)) for index, field in enumerate(fields, start)]
            found |= {index: self.decode(result) for index, result in results if result is not None}
            is_gone = is_gone and not any(field is not None for field in fields)
        if is_gone and head["state"] == "succeeded" and (wanted == present or head.get("keeps") == "1"):
            raise expired(run_id, claimed=bool(head.get("claim")))
        if is_gone:
            raise not_kept(run_id, wanted)
        return found

    def decode(self, result: bytes) -> Any:
        """A result, decoded. Raises DamagedState if it can't be decoded."""
        try:
            return self.backend.encoder.decode(result)
        except Exception as error:
            raise DamagedState(f"a stored result of {len(result):,} bytes can't be decoded: {error!r}") from error

    def encode(self, result: Any) -> bytes:
        """A result that is given from one run to another, as bytes. Raises HandOverFailed if it can't be encoded."""
        try:
            return self.backend.encode(result)
        except Exception as error:
            raise HandOverFailed(f"a result of type {type(result).__name__} can't be encoded: {error!r}") from error

    def _is_there(
        self, run_id: str, stage: int, generation: str, line: StageLine, found: Sequence[bytes | None]
    ) -> bool:
        """Whether the results of a stage are still stored. If none of some members was recorded, others tell: mostly
        the first ones, which are sent first."""
        total = line.total or 0
        starts = iter(range(0, total, CHUNK) if len(found) < total else ())
        while not any(field is not None for field in found):
            start = next(starts, None)
            if start is None:
                return False
            found = self.backend.results(run_id, stage, start, min(start + CHUNK, total), generation=generation)
        return True

    def _result(self, run_id: str, stage: int, index: int, field: bytes | None, line: StageLine) -> Any:
        result = result_in(field)
        if result is not None:
            return self.decode(result)
        if field is not None and line.lacks_results:
            return None
        raise ResultsGone(f"result {index} of stage {stage} of run {run_id!r} is not there (any more)")

    def previous_stage(self, run_id: str, stage: int, generation: str) -> tuple[str, int, str] | Spec | None:
        """Where the results that a stage sees come from: another stage, as (run, stage, generation); the item that its
        run was made for, or the run's args, as the spec that has it; or None.

        The first stage of a clutch that is a step of another clutch sees what the enclosing stage sees.
        """
        while stage == 0:
            spec = self.spec(run_id, generation)
            if spec.item is not None:
                return spec
            if spec.parent is None or not spec.inherits:
                return None
            run_id, stage, generation = spec.parent.run_id, spec.parent.stage, spec.parent.generation
        return run_id, stage - 1, generation

    def previous(self, run_id: str, stage: int, generation: str) -> tuple[bool, list[Any]]:
        """What a stage sees: whether that comes from a `parallel` or `map` stage (True also if there is nothing), and
        the results. Raises ResultsGone."""
        found = self.previous_stage(run_id, stage, generation)
        if found is None:
            return True, []
        if isinstance(found, Spec):
            return False, [self.decode(found.item or b"")]
        line, results = self.stage_results(*found)
        return line.many, results

    def iter_previous(self, run_id: str, stage: int, generation: str) -> Iterator[Any]:
        """The results that a stage sees, one after the other; read some at a time."""
        found = self.previous_stage(run_id, stage, generation)
        if isinstance(found, Spec):
            yield self.decode(found.item or b"")
        elif found is not None:
            yield from self.iter_results(*found)

    def earlier_stage(self, run_id: str, before: int, generation: str, stage: int | str) -> int:
        """The index of the stage that has this index or name, among those that come `before` the one of that index.
        Raises ValueError if there is none."""
        lines = self.backend.lines(run_id, before, generation=generation)
        return stage_in([StageLine.parse(line) for line in lines], stage)

    def iter_earlier(self, run_id: str, before: int, generation: str, stage: int | str) -> Iterator[Any]:
        """The results of an earlier stage, one after the other. Raises ValueError if there is none such, and
        ResultsGone if its results aren't there (any more)."""
        index = self.earlier_stage(run_id, before, generation, stage)
        try:
            yield from self.iter_results(run_id, index, generation)
        except ResultsGone as error:
            raise not_kept(run_id, index) if index < before - 1 else error from None

    def previous_failures(self, run_id: str, stage: int, generation: str) -> list[JobFailure]:
        """The failures of the dead members of the stage whose results this one sees."""
        found = self.previous_stage(run_id, stage, generation)
        return self.failures(*found) if isinstance(found, tuple) else []

    def failures(self, run_id: str, stage: int, generation: str) -> list[JobFailure]:
        """The failures that a stage which is over has allowed."""
        found = self.backend.failures(run_id, stage, generation=generation)
        return [failure_from(stage, member, details, allowed=True) for member, details in found]


def expired(run_id: str, *, claimed: bool) -> ResultsGone:
    """What is raised for the results of a run that has succeeded. `claimed`: its id was given by the user."""
    again = f"; run(run_id={run_id!r}, if_exists='restart') runs it again" if claimed else ""
    return ResultsGone(
        f"run {run_id!r} has succeeded, and its result has expired: it is kept for the result_ttl of the middleware, "
        f"and the status for longer{again}"
    )


def not_kept(run_id: str, stage: int) -> ResultsGone:
    return ResultsGone(
        f"the results of stage {stage} of run {run_id!r} are gone: a run keeps those of its present stage and of the "
        "one before. Say Clutch(keep_results=True) to keep those of all stages"
    )
