"""What starts runs of a clutch: `run()`, and `nest()` in a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic

from dramatiq import get_broker

from . import carrying, job, mermaid
from .about import Context, valid_tags
from .asynchronous import for_coroutines
from .durations import Duration, milliseconds
from .errors import NestingError
from .options import Options
from .run import Run
from .starting import NO_ARGS, IfExists, Unique, start
from .typed import R
from .working import may_be_a_jobs


class Runnable(Options, Generic[R]):
    """A description of work that can be run, any number of times."""

    __slots__ = ()

    def run(
        self,
        *,
        delay: Duration | None = None,
        run_id: str | None = None,
        if_exists: IfExists | None = None,
        unique: Unique | None = None,
        args: Any = NO_ARGS,
        context: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        carry: Mapping[str, Any] | None = None,
    ) -> Run[R]:
        """Start a run and return its handle: ``run = Clutch().then(fetch.message(2)).run()``. Once this has returned,
        the run isn't lost: if its first stage can't be sent at the moment, a worker sends it later.

        Parameters:
          delay: after how long the first job may work, at the earliest: milliseconds or a timedelta.
          run_id: an id of your own, of 1 to 200 letters, digits and ``_.:@/+=-``. If a clutch is run twice under the
            same id, there is one run, and both calls return a handle of it. The id stays claimed for the middleware's
            `run_ttl`, also after success. The delay, the context and the tags are not compared, for they say when, for
            whom and why; those of the first call count.
          if_exists: what to do if there is a run of this id, at work or at rest, or there was one whose id is still
            claimed. ``"join"``, the default: return a handle of it; another clutch's run is an error. ``"refuse"``:
            any run is an error. ``"restart"``: if it is at rest, it is deleted, and this clutch is run anew; if it is
            at work, this joins it. ``"replace"``: as ``"restart"``, but one at work is cancelled before, with the runs
            nested in it, and its `on_finish` is sent. `Run.started` tells whether this call has started the run. What
            is left of the earlier one's messages is skipped.
          unique: for how long there is only one run under the id. ``"always"``, the default: for the `run_ttl`.
            ``"while_running"``: until this run is at rest; then the id is free, and the next `run()` of it, whatever
            its `if_exists`, deletes this run and starts a new one.
          args: a value that the first stage sees as its previous result, as if a stage of one had returned it:
            `previous_results()` is `[args]`, `pipe` appends it, `map` maps over it. So a clutch can be written once and
            be run for each day: ``nightly = Clutch().then(extract, pipe=True).map(load)``, then
            ``nightly.run(args="2026-11-28")``. It may be whatever the backend's encoder encodes. It travels with the
            messages of all stages, so keep what is large elsewhere.
          context: is laid over the clutch's own context, key by key. Together they may have 8,192 bytes as JSON, and so
            may each with that of a clutch nested in it. For example, ``run(context={"tenant": 7})``.
          tags: up to 20 strings of 1 to 100 characters, shown in the status, such as ``tags=["nightly", "eu"]``. Nested
            runs don't have them.
          carry: options that all messages of the run carry, those of nested runs and callbacks too, for your own
            middleware to read: ``run(carry={"correlation_id": "f00"})``. It is laid over what the middleware's `carry`
            finds by itself. Up to 4,096 bytes of what JSON can hold. Like the context, it isn't compared.

        Raises:
          NotConfigured: the broker has no ClutchMiddleware, or that has no backend.
          ValueError: nobody has declared the queue, an actor belongs to another broker, `run_id` isn't a valid id,
            `if_exists` or `unique` isn't one of these words or there is no `run_id`, or the `delay` is negative, or as
            long as the deadline of its first stage, or with all waits as long as that of the run; the first stage pipes
            or maps, or that of a clutch in it, though nothing comes before it and there are no `args`, or it maps over
            `args` that are no list; a wait has no stage after it; the context is too large, or what is carried; an
            option belongs to one message alone, and so can't be carried; there are too many tags, or one isn't valid;
            or a callable given to `parallel` has returned an iterator that is used up.
          ActorNotFound: nobody has declared an actor by the name that a callback was given as.
          RunIdTaken: another clutch, or this one with other `args`, was run under this id; or, with
            ``if_exists="refuse"``, any clutch was.
          RunAtWork: the run that was to make room is at rest, but another process still sends what follows from that,
            such as a callback, and doesn't come to an end: try again. Nothing was started.
          ForeignRun: another application that shares the state store has run a clutch under this id.
          TypeError: what a callable given to `parallel` returned isn't an iterable of steps, the `delay` isn't a time,
            the `run_id` isn't a string, the `args` can't be encoded, the `context`, or what is carried, isn't a dict of
            what JSON can hold, or a tag isn't a string.
          HookFailed: a middleware's `before_enqueue`, asked for what is to be carried, doesn't let the first message
            through; nothing was started.
          DamagedState: such an iterable paused for minutes, and what had been written expired; nothing was started.
          StateUnavailable: the state store is away; nothing was started, but what was to make room may have been
            cancelled or deleted. Call it again.
          BrokerUnavailable: the broker is away, so a callback of the run that was to make room can't be sent; nothing
            was started.
          PayloadRefused: a message or an option is larger than the state store takes; nothing was started.
          OutcomeUnknown: the store went away in the middle; the run may have started. The error has its id.
        """
        delay = None if delay is None else milliseconds(delay, "delay")
        self._check_delay(delay or 0)
        broker = self.broker or get_broker()
        return start(
            self,
            broker,
            delay=delay,
            run_id=run_id,
            if_exists=if_exists,
            unique=unique,
            args=args,
            context=None if context is None else Context.given(context, "context"),
            tags=valid_tags(tags),
            carry=None if carry is None else carrying.given(carry),
            keeps=self.keep_results,
        )

    @for_coroutines(
        run,
        example='clutch.run_async(run_id="nightly")',
        after="So where a task may be cancelled give a `run_id`, and look: ``Run(run_id).status()`` raises RunNotFound "
        "if the run hasn't started. Or run the clutch again under that id.",
    )
    def run_async(self) -> Any: ...

    def nest(self) -> Run[R]:
        """Make a run part of the running job's stage, so that the next stage waits for it, too. For example, the actor
        `crawl` may do ``return Clutch().then(crawl.message(depth - 1)).nest()``. The run starts when the job succeeds;
        an attempt that raises starts nothing.

        If the actor returns the handle (or a list of handles), the result of the nested run (or the list of the
        results) becomes the job's result. Otherwise the job's result is what the actor returns. The first stage of the
        nested run sees no previous results, and its jobs go to their actors' own queues.

        Raises:
          NestingError: this isn't called in a job of a clutch.
          ValueError: nobody has declared the queue, or an actor belongs to another broker; the first stage pipes or
            maps, though it sees nothing; a wait has no stage after it; the clutch's context, with that of the job's
            run, is too large, or what is carried; or a callable given to `parallel` has returned an iterator that is
            used up.
          TypeError: a middleware has an option carried that JSON can't hold.
          HookFailed: its `before_enqueue` doesn't let the first message through.
          ActorNotFound: nobody has declared an actor by the name that a callback was given as.
          StateUnavailable: the clutch has a context, and that of the job's run, over which it is laid, can't be read.
        """
        running = job.current_job()
        if running is None:
            thread = "; in a thread that a job has started, it needs the job's context, in a copy of its own, as by "
            raise NestingError(
                "nest() makes a run part of the running job's stage; outside a clutch job use run()"
                + (f"{thread}pool.submit(contextvars.copy_context().run, work)" if may_be_a_jobs() else "")
            )
        return running.nest(self)

    def to_mermaid(self) -> str:
        """A picture of the clutch as a Mermaid flowchart, which GitHub and most documentation tools render:
        ``print(clutch.to_mermaid())``."""
        return mermaid.draw(self)

    def _check_delay(self, delay: int) -> None:
        """Raises ValueError for a delay, or waits between stages, at whose end a deadline would be over."""
        first = self.stages[0].deadline if self.stages and not self.stages[0].wait else None
        waits = sum(stage.wait for stage in self.stages)
        for what, time, whose, limit in (
            ("delay and waits are", delay + waits, "the run", self.deadline),
            ("delay is", delay, "its first stage", first),
        ):
            deadline = None if limit is None else milliseconds(limit, "deadline")
            if deadline is not None and deadline <= time:
                raise ValueError(
                    f"{what} {time:,} ms, and by then the deadline of {whose} is over: {deadline:,} ms from run() on"
                )
