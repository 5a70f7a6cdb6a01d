"""Calls scripts for a run: each call gets the keys of one stage, and of one generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...backend import Caller, Reply
from ...errors import foreign_run
from ...stored.formats import refuse_newer
from ...stored.places import Tag
from .keeping import RedisKeeping
from .keys import keys_of
from .registering import RedisRegister
from .replies import reply_from
from .scripts import script

#: The scripts that workers call for each job: they go straight over the wire (`resp`).
WORKERS = ("guard", "record", "succeed", "confirm")

#: The scripts that may be called only by the application that the run belongs to.
PRIVATE = ("owed", "sweep", "cancel", "retry", "resend", "delete", "rewind")

#: Those of them that follow from a message or a duty which a worker has been given, whose generation they then name. An
#: application that has been given another name finishes what is left of the runs that it has started before.
GIVEN = ("owed", "cancel", "retry", "resend")


class At(NamedTuple):
    """Says which keys a script gets: those of this run, in this generation, and of this stage."""

    run_id: str
    stage: int
    generation: str


class RedisCalling(RedisKeeping, RedisRegister):
    """The part of a `RedisBackend` that calls its scripts."""

    def _draft(self, run_id: str, draft: str) -> str:
        return self._key(run_id, f"draft:{draft}")

    def _known(self, tag: Tag) -> str:
        return tag.generation or self._generation(tag.run_id)

    def _whereabouts(self, run_id: str, name: str, caller: Caller, generation: str) -> At:
        """The present stage and the generation. Both may change before the script runs, so it checks them if it matters
        to it (its answer is then `moved`).

        Raises NewerRelease for a run of a newer format, and ForeignRun where it belongs to another application.
        """
        names = ("stage", "gen", "format", "app")
        fields: Any = self.calls.ask(lambda: self.client.hmget(self._key(run_id, "head"), names))
        stage, found, version, app = fields
        if version is not None:
            refuse_newer(int(version), f"run {run_id!r}")
        is_private = name in PRIVATE and not (generation and name in GIVEN)
        if is_private and app is not None and app.decode() != caller.application:
            raise foreign_run(run_id, app.decode(), caller.application)
        return At(run_id, int(stage or 0), generation or (found or b"").decode())

    def _present(
        self, name: str, run_id: str, caller: Caller, given: Mapping[str, Any] | None = None, *, generation: str = ""
    ) -> Reply:
        """Call a script with the keys of the present stage; again if the run has moved to another stage meanwhile."""
        return reply_from(*self._ask_present(name, run_id, caller, given or {}, generation))

    def _ask_present(
        self, name: str, run_id: str, caller: Caller, given: Mapping[str, Any], generation: str = ""
    ) -> tuple[Any, str]:
        while True:
            at = self._whereabouts(run_id, name, caller, generation)
            raw = self._call(name, at, caller, given)
            if raw[0] != b"moved":
                return raw, at.generation

    def _call(
        self,
        name: str,
        at: At,
        caller: Caller,
        given: Mapping[str, Any],
        rest: Sequence[Any] = (),
        *,
        keys: Mapping[str, str] | None = None,
        dispatch: str = "",
        alone: bool = False,
    ) -> Any:
        """Call a script for a run. If it is to go `alone`, it doesn't wait for other threads' calls."""
        who = {
            "stage": at.stage,
            "now": caller.now,
            "owner": caller.owner,
            "lease": caller.lease,
            "lease_ms": caller.lease_ms,
            "generation": at.generation,
        }
        takes = script(name, dispatch).arguments
        who = {name: value for name, value in who.items() if name in takes}
        all_keys = {**keys_of(self.namespace, at.run_id, at.stage, at.generation), **(keys or {})}
        raw = self._run(name, all_keys, {**who, **given}, rest, dispatch=dispatch, alone=alone)
        if name != "seal" and len(raw) > 1 and isinstance(raw[1], bytes) and raw[1].endswith(b"+"):
            raw[1] = raw[1][:-1]
            if caller.touch or raw[1]:  # otherwise the run lives as long as before
                self._keep(at.run_id, at.generation)
        return raw

    def _run(
        self,
        name: str,
        keys: Mapping[str, str],
        given: Mapping[str, Any],
        rest: Sequence[Any] = (),
        *,
        dispatch: str = "",
        alone: bool = False,
    ) -> Any:
        called = script(name, dispatch)
        arguments = called.call(keys, given, rest)
        return self.calls.run(called, arguments, by_worker=name in WORKERS, alone=alone)
