"""Reads what is stored of a run: its plan, its results, and the results that a stage sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .about import Context
from .backend import ClutchBackend
from .errors import DamagedState, HandOverFailed, ResultsGone, RunNotFound
from .status import JobFailure, failure_from
from .stored.formats import result_in
from .stored.plan import Spec, StageLine


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what a store keeps, and decodes it."""

    backend: ClutchBackend

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
        """Whether the results of a stage are still stored. If none of some members was recorded, others tell."""
        if not any(field is not None for field in found) and len(found) < (line.total or 0):
            found = self.backend.results(run_id, stage, 0, line.total or 0, generation=generation)
        return any(field is not None for field in found)

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

    def previous_failures(self, run_id: str, stage: int, generation: str) -> list[JobFailure]:
        """The failures of the dead members of the stage whose results this one sees."""
        found = self.previous_stage(run_id, stage, generation)
        if found is None or isinstance(found, Spec):
            return []
        its_run, its_stage, its_generation = found
        failures = self.backend.failures(its_run, its_stage, generation=its_generation)
        return [failure_from(its_stage, member, details) for member, details in failures]
