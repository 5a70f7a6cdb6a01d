"""How a run stands: its status, once or as it changes, its members, and its callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any, TextIO

from ..asynchronous import for_coroutines
from ..errors import NestingError
from ..firings import CallbackStatus, callbacks_of
from ..following import MOST_NESTED, follow
from ..listing import RunPage, runs
from ..members import MemberPage, MemberState, members_of
from ..picturing import picture_of
from ..status import RunStatus
from ..watching import Watch
from ..working import is_part_of
from .identity import RunIdentity


class RunView(RunIdentity):
    """Looks at a run, and changes nothing."""

    @property
    def context(self) -> Mapping[str, Any]:
        """The run's context, which can't be changed: what `Clutch(context=…)` and `run(context=…)` were given, for a
        nested run laid over that of the run around it. It is empty if there is none.

        Each look reads it from the store, so that ``tenant = run.context["tenant"]`` is read once; a coroutine says
        ``await asyncio.to_thread(lambda: run.context)``. It is there for as long as the run's status. Raises
        RunNotFound; or StateUnavailable, if the state store is away.
        """
        return self._engine.reader.context(self.run_id, self._generation)

    def status(self) -> RunStatus:
        """How the run stands at one moment. For example, ``run.status().progress`` is how far it is, and
        ``run.status().to_dict()`` is what an API may answer.

        It takes as long for a stage of 100,000 members as for one of two. Where members are nested runs, these are
        looked at, too, to tell how far they are: at most 100, all together.

        Raises:
          RunNotFound: there is no such run (any more).
          NewerRelease: a newer release has started it.
          StateUnavailable: the state store is away.
        """
        return self._status(look_inside=True)

    def _status(self, *, look_inside: bool = False) -> RunStatus:
        status = self._engine.reader.status(self.run_id, look_inside=look_inside)
        if status is None:
            raise self._not_found()
        return status

    @for_coroutines(status)
    def status_async(self) -> Any: ...

    def watch(self) -> Watch:
        """The run's statuses: the present one, then one whenever it has changed, until the run is at rest::

            for status in run.watch():
                print(f"{status.progress:.0%}")

        In a coroutine, ``async for status in run.watch()``. That the run has come to rest is heard at once; otherwise
        it is looked at once a second. All who watch in a process share two threads and at most two connections, and one
        look serves all who watch the same run. Whoever comes late sees the newest status, and none in between. If the
        state store goes away meanwhile, this goes on when it is back. It looks for as long as the run is at work,
        stalled or not; end the loop when you have seen enough.

        Raises NestingError in a job of the run, which would watch for ever. The loop raises RunNotFound, also if the
        run goes meanwhile, as a nested one does that has succeeded; and StateUnavailable, if the state store is away
        when it begins.
        """
        if is_part_of(self.run_id):
            raise NestingError(f"a job of run {self.run_id!r} can't watch it: the run is at work as long as the job is")
        return Watch(self.run_id, self.status, self._waiter)

    def follow(self, *, file: TextIO | None = None) -> RunStatus:
        """Draw in the terminal how far the run is, until it is at rest: a bar for each stage, nested runs below, what
        it waits for, and failures as they come. For example, ``clutch.run().follow()``. In a pipe there are plain
        lines; in a terminal it is drawn by rich if that is installed, otherwise by tqdm, otherwise in plain lines, too.

        Returns the status in which the run has come to rest; of a run that has failed, too. A Ctrl-C ends this with a
        KeyboardInterrupt, and leaves the run alone. `file` is where to draw; default is stderr. Raises what `watch()`
        and its loop raise. It blocks: a coroutine loops over `watch()`.
        """
        with closing(iter(self.watch())) as statuses:
            status = follow(statuses, children=self._nested, file=file)
        if status is None:
            raise self._not_found()
        return status

    def _nested(self, run_id: str) -> RunPage:
        return runs(broker=self._broker, parent=run_id, limit=MOST_NESTED)

    def members(
        self,
        *,
        stage: int | str | None = None,
        state: MemberState | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> MemberPage:
        """How the members of a stage stand, one page at a time, in the order of the stage. For example, which jobs are
        dead, and of what::

            for member in run.members(state="dead"):
                print(member.actor, member.arguments, member.error)

        A page costs a few round trips to the state store, however large the stage is. With a `state`, those that are
        failing or dead are found at once; for any other state at most 1,000 members are looked at for a page, so that
        it may have few or none although others follow: go on as long as there is a `cursor`. While a stage is worked
        on, its pages have each member once.

        Of a stage that is complete, less is known. As long as its results are kept (those of the last stage, and of the
        one before the present one while the run is at work; of all stages of a ``Clutch(keep_results=True)``), each
        member is `succeeded`, `dead` or `skipped`. After that, the members whose failures are kept (see
        ``RunStatus.failures``) are `dead`, and all others are shown as `succeeded`, also if some of them were dead or
        skipped: how many, the status says. A mapped stage has no members before it is opened, which it is when the
        stage before is complete.

        Parameters:
          stage: the index or the name of a stage; default is the present one, which is the last that has begun.
          state: only members that are shown under this state: unsent, sent, working, failing, dead, succeeded or
            skipped (see `Member`).
          limit: how many members the page may have, from 1 to 1,000.
          cursor: where the page begins, from the page before. With it, the default for `stage` is that page's stage.

        Raises:
          ValueError: the run has no such stage; a `state` that there isn't, a `limit` out of range, or a `cursor` that
            no page of this stage has given.
          RunNotFound: there is no such run (any more).
          NewerRelease: a newer release has started it.
          DamagedState: it can't be read.
          StateUnavailable: the state store is away.
        """
        found = members_of(self._engine, self.run_id, stage, state, limit, cursor)
        if found is None:
            raise self._not_found()
        return found

    @for_coroutines(members)
    def members_async(self) -> Any: ...

    def callbacks(self) -> tuple[CallbackStatus, ...]:
        """How the run's callbacks stand, those that its middleware has set included: whom they call, which have fired,
        when, and what came of them. For example, whether anybody was told that the run has failed::

            for one in run.callbacks():
                print(one.event, one.actor, one.state, one.sent)

        They come in the order in which one moment would fire them: on_failure, on_death, completion, on_success,
        on_failed, on_finish; those of one event as they were written. It is known for as long as the run's status. It
        takes one round trip to the state store; two or three while one is owed. Those of nested runs are theirs:
        ``Run(child.run_id).callbacks()``.

        Raises:
          RunNotFound: there is no such run (any more).
          NewerRelease: a newer release has started it.
          DamagedState: it can't be read.
          StateUnavailable: the state store is away.
        """
        found = callbacks_of(self._engine, self.run_id, self._generation)
        if found is None:
            raise self._not_found()
        return found

    @for_coroutines(callbacks)
    def callbacks_async(self) -> Any: ...

    def to_mermaid(self) -> str:
        """A picture of the run as a Mermaid flowchart: its stages and how they stand, and the runs nested in it that
        are still there, the first of each stage and three levels of them: ``print(run.to_mermaid())``. That of a clutch
        is drawn by `Clutch.to_mermaid`. Raises RunNotFound or StateUnavailable."""
        return picture_of(self._engine, self._status())
