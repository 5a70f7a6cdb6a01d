"""The builder of clutches: their stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, overload

from . import terms
from .durations import UNITS, Duration, in_words, milliseconds
from .runnable import Runnable
from .shortening import shortened
from .signatures import Extra, mapped, piped
from .steps import Source, Stage, Step, fed, is_step, members_of, to_member
from .terms import Allowance
from .typed import R

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from . import typed
    from .typed import Gives, Nests, NestsMany, NestsOrNot, T, Untyped

#: How long a wait may be at most, in milliseconds: ten years.
MOST_WAITED = 3_650 * UNITS["d"]

#: How many characters a stage's name may have.
MOST_NAME = 100


class Clutch(Runnable[R]):
    """An immutable description of work. Every method that adds stages returns a new clutch; each clutch can be run any
    number of times. For example, ``Clutch().parallel(fetch.message(n) for n in range(3)).then(summarise)`` has two
    stages: three jobs that work in parallel, and one that finds their results by ``previous_results()``.

    Messages are encoded when they are given, by Dramatiq's encoder of that moment. So it makes no difference if, say, a
    list among their arguments is changed later. Pickling a clutch leaves out its `broker`. `stages` are those that were
    added, and `pending` is for how many milliseconds the next one will wait (see `wait`).

    A step is a message, an actor, an actor with some of its arguments (``functools.partial(fetch, timeout=5)``),
    another clutch, or a Dramatiq pipeline or group. Where more arguments are to come (by `pipe`, by `map`, or as a
    callback's status), a partial passes a type checker, and a message with too few arguments doesn't.

    Each callback is an actor, an actor with some of its arguments, a message or an actor's name; or a list of these,
    which are all sent, in order: ``Clutch(on_failed=[alert, partial(store, "failures")])``. Its last argument is the
    run's status with the `event` and the index of the `stage`, a dict that `RunStatus.to_dict` shows in full. For
    `on_failure` and `on_death` that also says in `allowed` whether the stage gets along with the failures so far
    (`allow_failures`). A name is looked up at `run()`; an actor or a message needn't be known to the process that calls
    `run()`.

    For a type checker a clutch has the type of its result, which `then`, `parallel` and `map` take from the annotations
    of the last stage's actors. If `count` returns an int, ``Clutch().then(count)`` is a ``Clutch[int]``, its run a
    ``Run[int]``, and ``Clutch().parallel(count, count)`` a ``Clutch[list[int]]``; or a ``Clutch[list[int | None]]``,
    with `allow_failures` or `enough`; where members are of several types, a list of what these have in common. An actor
    that returns the handle of a nested run counts as one that returns that run's result. Nothing is known of
    class-based actors, pipelines and groups, of several steps in one `then`, and of ``Clutch()`` itself. Where a
    function takes a `Clutch`, its result may be of any type. All this isn't checked at run time; and encoders may
    change values, as JSON makes lists of tuples.

    An event for which nothing is set has the callbacks that the middleware sets, ``ClutchMiddleware(on_failed=alert)``;
    ``on_failed=()`` keeps these away. They aren't used for a clutch that is nested in another one, because the
    outermost run tells of what happens in it.

    Parameters:
      queue: overrides the actors' queues, for every job and callback of every stage. The broker must know it.
      callback_queue: overrides `queue` for the callbacks, so that they needn't stand behind jobs. Clutches that are
        steps of this one inherit both, unless they have their own. The broker must know it.
      deadline: how long a run may take: milliseconds or a timedelta, from `run()` (of a nested run: from its start), or
        the last `retry()`, delays and retries included. Afterwards it fails as by the `deadline` of a stage (see
        `parallel`).
      fail_fast: every `parallel` and `map` stage of its own is so that doesn't say otherwise (see `parallel`).
      keep_results: the results of all stages stay as long as the run does, for the middleware's `run_ttl` and, after
        success, its `result_ttl`; otherwise those of a stage go when the next one is complete. In a clutch that is
        nested in another one it has no effect.
      timings: `Run.members()` tells when and where each member was at work, and which are at work now (see `Member`).
        That takes some 90 bytes for each, as long as the results of its stage are kept; and each job asks the store
        before it begins, which otherwise only some do. Clutches that are steps of this one, or are nested by its jobs,
        inherit it, unless they say True or False themselves; None, the default, is False for the outermost one. It
        makes no other clutch of one that is run under an id.
      on_failure: is sent once for a stage, when every member has had an attempt and at least one is failing or dead.
      on_death: is sent once for a stage, when its first member is dead.
      on_success: is sent when the last stage has succeeded.
        It may be given as `with_result(actor)`, and then gets the result, too.
      on_failed: is sent when the run comes to rest as failed; again if it fails again after a `retry()`.
      on_finish: is sent when the run comes to rest: succeeded, failed or cancelled.
      name: shown in the status.
      context: what every job of its runs, and of what is nested in these, finds as ``current_run().context``, and so do
        the callbacks: a dict with strings as keys, of what JSON can hold, such as ``{"tenant": 7, "trace": "f00"}``.
        That of a nested clutch is laid over the one around it, key by key, and that of `run(context=…)` over this one.
      broker: default is the global broker at `run()`.
    """

    __slots__ = ()

    if not TYPE_CHECKING:

        def __class_getitem__(cls, result: Any) -> type[Clutch]:
            """``Clutch[int]()`` at run time: `typing` would give the clutch an attribute, for which it has no room."""
            return cls

    @overload
    def then(self, step: Nests[T], /, **options: Unpack[typed.Then]) -> Clutch[T]: ...
    @overload
    def then(self, step: NestsMany[T], /, **options: Unpack[typed.Then]) -> Clutch[list[T]]: ...
    @overload
    def then(self, step: NestsOrNot[T], /, **options: Unpack[typed.Then]) -> Clutch[T | None]: ...
    @overload
    def then(self, step: Gives[T], /, **options: Unpack[typed.Then]) -> Clutch[T]: ...
    @overload
    def then(self, *steps: Untyped, **options: Unpack[typed.Then]) -> Clutch[Any]: ...
    @overload
    def then(self, first: Step, second: Step, /, *more: Step, **options: Unpack[typed.Then]) -> Clutch[Any]: ...
    def then(
        self, *steps: Step, pipe: bool | str = False, name: str | None = None, deadline: Duration | None = None
    ) -> Clutch[Any]:
        """Add one stage per step, in order: ``Clutch().then(fetch.message(2)).then(partial(store, "a"), pipe=True)``
        calls `store` with ``"a"`` and the result of `fetch`.

        Parameters:
          pipe: True appends the result of the stage before as the last positional argument; a name, as in
            ``.then(store, pipe="page")``, gives it as the keyword argument of that name. It is the value after a stage
            of one, the list after a `parallel` or `map`. A step with Dramatiq's option `pipe_ignore` doesn't get it.
            The first stage of a clutch that is a step of another one gets what the enclosing stage sees: the item, in a
            `map`; otherwise the result of the stage before that one.
          deadline: of each of these stages, as for `parallel`.
          name: the stage's name, of 1 to 100 characters, as in ``.then(fetch, name="load")``, which takes exactly one
            step. It is shown in the status, in errors and in pictures, and ``previous_results(stage="load")`` finds the
            stage by it. No two stages of a clutch have the same.

        Raises:
          TypeError: something isn't a step, an argument of a message can't be encoded, or an actor that is known here
            can't be called with what it would get; the `name` isn't a string, or the `deadline` no time.
          ValueError: a message was sent already, or its actor belongs to another broker than the clutch; `pipe` isn't
            the name of an argument, a message has that argument already, or a step is a clutch, which takes none; more
            than 100 levels are nested in each other; the `name` is too long, used already, or given for several steps;
            or the `deadline` is less than a millisecond.
        """
        if name is not None and len(steps) != 1:
            raise ValueError(
                f"then() takes one step together with a name, not {len(steps)}: a name is that of one stage"
            )
        given = self._given("then()", _extra(pipe))
        members = [to_member(step, given) for step in steps]
        within = terms.valid_deadline(deadline)
        stages = (dataclasses.replace(_stage((member,), pipe=pipe), deadline=within) for member in members)
        return self._with(*stages, name=name)

    @overload
    def parallel(self, *steps: typed.ManyNest[T], **options: Unpack[typed.ParallelWhole]) -> Clutch[list[T]]: ...
    @overload
    def parallel(self, *steps: typed.ManyNest[T], **options: Unpack[typed.ParallelPart]) -> Clutch[list[T | None]]: ...
    @overload
    def parallel(self, *steps: typed.ManyNestMany, **options: Unpack[typed.ParallelPart]) -> Clutch[list[Any]]: ...
    @overload
    def parallel(self, *steps: typed.ManyGive[T], **options: Unpack[typed.ParallelWhole]) -> Clutch[list[T]]: ...
    @overload
    def parallel(self, *steps: typed.ManyGive[T], **options: Unpack[typed.ParallelPart]) -> Clutch[list[T | None]]: ...
    @overload
    def parallel(self, *steps: typed.ManyUntyped, **options: Unpack[typed.ParallelPart]) -> Clutch[list[Any]]: ...
    @overload
    def parallel(
        self, *steps: Step | Iterable[Step] | Source, **options: Unpack[typed.ParallelPart]
    ) -> Clutch[list[object]]: ...
    def parallel(
        self,
        *steps: Step | Iterable[Step] | Source,
        pipe: bool | str = False,
        allow_failures: Allowance = False,
        enough: int | None = None,
        limit: int | None = None,
        fail_fast: bool | None = None,
        deadline: Duration | None = None,
        name: str | None = None,
    ) -> Clutch[Any]:
        """Add one stage whose members work in parallel: ``Clutch().parallel(fetch.message(n) for n in range(3))``. Two
        calls make two stages.

        It takes steps; or one iterable of steps, which is read at once; or, for stages too large for memory, one
        callable. That must return a new iterable each time: it is called at each `run()`, and what it returns is
        written to the backend in chunks. (In a nested clutch such a stage is read at `run()`, too, but held in memory
        as bytes, because it is part of its parent's plan.)

        Parameters:
          pipe: as for `then`.
          allow_failures: how many members may die: a number, or a share of them as a float between 0 and 1, rounded
            down; True for any number. The stage counts as complete when all its members are settled and no more are
            dead. In `previous_results()` None stands for a dead one, and `previous_failures()` says why.
          enough: how many successes complete the stage; fewer, if it has fewer members. The other members are skipped:
            what is queued isn't done, what is at work doesn't count any more, nested runs are cancelled, and None
            stands for each in `previous_results()`. So many members may die that enough are left.
          limit: how many members may be unsettled at a time. Each counts from when it is sent until it has succeeded or
            is dead, its retries included. Members are sent in written order.
          fail_fast: the run fails as soon as one member more is dead than may be, and doesn't wait until all are
            settled. What is queued isn't done, and nested runs are cancelled; jobs at work finish, and what succeeds
            needn't be done again. `retry()` sends whatever hasn't succeeded. Default is the clutch's `fail_fast`.
          deadline: how long the stage may take: milliseconds or a timedelta, from when it begins, or the last
            `retry()`; queueing, delays and retries included. If it isn't complete by then, the run fails at once, as
            with `fail_fast`, and `status().error` says `DeadlineExceeded`. A success that comes later is stored, so
            that `retry()` needn't send it again, but completes nothing.
          name: as for `then`.

        Raises:
          TypeError: as for `then`.
          ValueError: as for `then`; or the `limit` is below 1, `allow_failures` is no number of members and no share of
            them, `enough` is below 1 or more than there are members, both of these are given, or an iterator is used
            up.
        """
        source: Any = steps[0] if len(steps) == 1 and callable(steps[0]) else None
        if source is not None and not is_step(source) and not isinstance(source, Iterable):
            members: tuple[Any, ...] = ()
        else:
            source, members = None, members_of(steps, self._given("parallel()", _extra(pipe)))
        said = terms.fields(
            allow_failures=allow_failures,
            enough=enough,
            limit=limit,
            fail_fast=self.fail_fast if fail_fast is None else fail_fast,
            deadline=deadline,
            total=len(members) if source is None else None,
        )
        stage = _stage(members, pipe=pipe)
        return self._with(dataclasses.replace(stage, many=True, source=source, **said), name=name)

    @overload
    def map(self, step: Nests[T], **options: Unpack[typed.MapWhole]) -> Clutch[list[T]]: ...
    @overload
    def map(self, step: Nests[T], **options: Unpack[typed.MapPart]) -> Clutch[list[T | None]]: ...
    @overload
    def map(self, step: NestsMany[Any], **options: Unpack[typed.MapPart]) -> Clutch[list[Any]]: ...
    @overload
    def map(self, step: Gives[T], **options: Unpack[typed.MapWhole]) -> Clutch[list[T]]: ...
    @overload
    def map(self, step: Gives[T], **options: Unpack[typed.MapPart]) -> Clutch[list[T | None]]: ...
    @overload
    def map(self, step: Untyped, **options: Unpack[typed.MapPart]) -> Clutch[list[Any]]: ...
    def map(
        self,
        step: Step,
        *,
        into: str | None = None,
        allow_failures: Allowance = False,
        enough: int | None = None,
        limit: int | None = None,
        fail_fast: bool | None = None,
        deadline: Duration | None = None,
        name: str | None = None,
    ) -> Clutch[Any]:
        """Add one stage with a member for each item of the stage before: ``Clutch().then(list_pages).map(fetch)``, or
        ``.map(partial(fetch, "https://example.org"))``. An actor or a message gets the item as its last positional
        argument; a clutch finds it as the `previous_results()` of its first stage, which may also pipe it, or map over
        it: ``.map(Clutch().map(resize).then(pack, pipe=True))`` makes a run for each folder, with a job for each file.

        After a `parallel` or `map` stage the items are its results. After a stage of one member its result must be a
        list, whose elements are the items; otherwise the run fails. The first stage of a clutch that is a step of
        another one maps over what the enclosing stage sees: the item, in a `map`, which must be a list; otherwise what
        that stage itself would map over.

        Parameters:
          into: the name of a keyword argument, as in ``.map(fetch, into="page")``. The item is given as that one,
            instead of as the last positional argument.
          allow_failures, enough, limit, fail_fast, deadline: as for `parallel`. If there are fewer items than are
            `enough`, all of them have to succeed.
          name: as for `then`.

        Raises:
          TypeError: `step` isn't a step, an argument of its message can't be encoded, or an actor that is known here
            can't be called with what it would get; or the `name` isn't a string.
          ValueError: `into` isn't the name of an argument, the message has that argument already, or the step is a
            clutch, which takes none; the `limit`, `allow_failures` or `enough` is wrong, as for `parallel`; more than
            100 levels are nested in each other; or the `name` is too long, or used already.
        """
        into = _argument(into, "into")
        member = fed(to_member(step, self._given("map()", mapped(into))), into)
        said = terms.fields(
            allow_failures=allow_failures,
            enough=enough,
            limit=limit,
            fail_fast=self.fail_fast if fail_fast is None else fail_fast,
            deadline=deadline,
        )
        return self._with(Stage((member,), many=True, mapped=True, into=into, **said), name=name)

    def wait(self, duration: Duration) -> Clutch[R]:
        """Let time pass between two stages: ``Clutch().then(order).wait(timedelta(hours=24)).then(remind)``. The stage
        that is added next begins so long after the one before is complete: its jobs are sent with that delay, to which
        a `delay` among a message's own options adds, and its nested runs start then. A `retry()` doesn't wait again.

        As the first thing in a nested clutch it is that clutch's delay, from when it would start otherwise; in any
        other, it comes on top of the `delay` of its run. Several waits add up. Where a stage turns out to have no
        members, the next one waits in its place.

        Parameters:
          duration: milliseconds or a timedelta, ten years at most. If the broker refuses to delay a message for so long
            (Dramatiq speaks of a week), the run fails when that stage is to be sent.

        Raises TypeError for what isn't a time, and ValueError for one that is negative or too long. A wait with no
        stage after it is a ValueError at `run()`.
        """
        longer, pending = self._with(), self.pending + milliseconds(duration, "a wait")
        if pending > MOST_WAITED:
            raise ValueError(
                f"a wait is {duration!r}, {in_words(pending)} in all; it is {in_words(MOST_WAITED)} at most"
            )
        object.__setattr__(longer, "pending", pending)
        return longer

    def _with(self, *stages: Stage, name: str | None = None) -> Clutch[Any]:
        """The same with more stages, of which the only one may have a name."""
        if name is not None:
            self._check_name(name)
            stages = tuple(dataclasses.replace(stage, name=name) for stage in stages)
        longer, pending = dataclasses.replace(self), self.pending
        if stages and pending:
            stages, pending = (dataclasses.replace(stages[0], wait=pending), *stages[1:]), 0
        object.__setattr__(longer, "stages", (*self.stages, *stages))
        object.__setattr__(longer, "pending", pending)
        return longer

    def _check_name(self, name: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name is {name!r}; a stage's name is a string")
        if not 0 < len(name) <= MOST_NAME or not name.isprintable():
            raise ValueError(
                f"name is {shortened(repr(name))}; a stage's name has 1 to {MOST_NAME} printable characters"
            )
        if any(stage.name == name for stage in self.stages):
            raise ValueError(f"there is a stage {name!r} already: no two stages of a clutch have the same name")


def _stage(members: tuple[Any, ...], *, pipe: bool | str) -> Stage:
    extra = _extra(pipe)
    into = extra.into if extra else None
    if extra:
        members = tuple(fed(member, into) for member in members)
    return Stage(members, piped=extra is not None, into=into)


def _extra(pipe: bool | str) -> Extra | None:
    """What steps get by `pipe`."""
    if isinstance(pipe, str):
        return piped(_argument(pipe, "pipe"))
    return piped() if pipe else None


def _argument(name: Any, option: str) -> str | None:
    if name is not None and (not isinstance(name, str) or not name.isidentifier()):
        raise ValueError(f"{option} is {name!r}; it is the name of the keyword argument that a step gets its value as")
    return name
