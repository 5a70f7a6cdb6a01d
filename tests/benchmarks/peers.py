"""The peers on Dramatiq: its own group and pipeline, and dramatiq-workflow."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

import dramatiq

from tests.benchmarks.contender import NONE_BEFORE, job, moment, step, text
from tests.benchmarks.on_dramatiq import OnDramatiq


class WithResults(OnDramatiq):
    """Dramatiq's Results. A job that reads results derives the ids of their messages: a message that carried them all
    would be copied into every member of its group, and so be as long as the group, as many times."""

    def set_up(self) -> None:
        from dramatiq.rate_limits.backends import RedisBackend as RateLimits
        from dramatiq.results import Results
        from dramatiq.results.backends import RedisBackend as Stored

        self.coordinate(RateLimits(client=self.broker.client))
        self.stored_results = Stored(client=self.broker.client)
        # After what coordinates: the middleware added last is the first to hear that a job has ended, and a result has
        # to be there when the job that reads it is sent.
        self.broker.add_middleware(Results(backend=self.stored_results))
        returning = (dramatiq.actor(store_results=True)(function) for function in (job, text, moment))
        self.job, self.text, self.moment = returning

        @dramatiq.actor
        def report(batch: str, count: int) -> None:
            self.answer(sum(self.read(self.job, batch, count)))

        @dramatiq.actor
        def length(batch: str, count: int) -> None:
            self.answer(sum(map(len, self.read(self.text, batch, count))))

        @dramatiq.actor
        def gather(batch: str, count: int) -> None:
            began = time.monotonic()
            self.arrive(began, max(self.read(self.moment, batch, count)))

        self.report, self.length, self.gather = report, length, gather
        self.declare()

    @abstractmethod
    def coordinate(self, rate_limits: Any) -> None:
        """Add the middleware that lets jobs wait for others."""

    @abstractmethod
    def declare(self) -> None:
        """Declare the other actors."""

    def read(self, actor: Any, batch: str, count: int) -> Iterator[Any]:
        any_message = actor.message()
        for number in range(count):
            yield any_message.copy(message_id=f"{batch}-{number}").get_result(backend=self.stored_results)


def named(messages: Iterable[dramatiq.Message[Any]], batch: str) -> list[dramatiq.Message[Any]]:
    """The messages, under ids that can be derived."""
    return [message.copy(message_id=f"{batch}-{number}") for number, message in enumerate(messages)]


class Groups(WithResults):
    """Dramatiq's own group with a completion callback that reads the results, or its pipeline. A group with a callback
    can't hold another group, so there is nothing for what is nested."""

    name = "Dramatiq: group + callback + Results, or pipeline"

    def coordinate(self, rate_limits: Any) -> None:
        from dramatiq.middleware import GroupCallbacks

        self.broker.add_middleware(GroupCallbacks(rate_limits))

    def declare(self) -> None:
        self.step = dramatiq.actor(step)

        @dramatiq.actor
        def last(value: int) -> None:
            self.answer(step(value))

        @dramatiq.actor
        def advance(batch: str, stage: int) -> None:
            self.stage(batch, stage)

        @dramatiq.actor
        def follow(seconds: float, ended: float) -> float:
            return self.hop(time.monotonic(), ended, seconds)

        @dramatiq.actor
        def end(ended: float) -> None:
            self.arrive(time.monotonic(), ended)

        self.last, self.advance, self.follow, self.end = last, advance, follow, end

    def fan(self, count: int) -> None:
        batch = uuid4().hex
        self.group(map(self.job.message, range(count)), batch, self.report.message(batch, count))

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            later = [self.step.message() for _ in range(length - 2)]
            dramatiq.pipeline([self.step.message(0), *later, self.last.message()]).run()

    def small(self, runs: int) -> None:
        for _ in range(runs):
            self.stage(uuid4().hex, 0)

    def results(self, count: int, size: int) -> None:
        batch = uuid4().hex
        self.group((self.text.message(size) for _ in range(count)), batch, self.length.message(batch, count))

    def handover(self, hops: int, seconds: float) -> None:
        later = [self.follow.message(seconds) for _ in range(hops - 1)]
        dramatiq.pipeline([self.follow.message(seconds, NONE_BEFORE), *later, self.end.message()]).run()

    def wide(self, members: int) -> None:
        batch = uuid4().hex
        self.group((self.moment.message() for _ in range(members)), batch, self.gather.message(batch, members))

    def first(self, asked: float) -> None:
        dramatiq.pipeline([self.end.message(asked)]).run()

    def stage(self, batch: str, stage: int) -> None:
        """One of three. A group can't be followed by a group: a job of its own, the callback, has to start the next."""
        whole = f"{batch}-{stage}"
        after = self.advance.message(batch, stage + 1) if stage < 2 else self.report.message(whole, 3)
        self.group(map(self.job.message, range(3)), whole, after)

    def group(self, messages: Iterable[dramatiq.Message[Any]], batch: str, callback: dramatiq.Message[Any]) -> None:
        group = dramatiq.group(named(messages, batch))
        group.add_completion_callback(callback)
        group.run()


class Workflows(OnDramatiq):
    """dramatiq-workflow by itself. It hands no results on, so the last job only says that it has come."""

    name = "dramatiq-workflow, no results"
    hands_on = False

    def set_up(self) -> None:
        from dramatiq.rate_limits.backends import RedisBackend as RateLimits
        from dramatiq_workflow import WorkflowMiddleware

        self.broker.add_middleware(WorkflowMiddleware(RateLimits(client=self.broker.client)))

        @dramatiq.actor(actor_name="job")
        def nothing(number: int) -> None: ...

        @dramatiq.actor
        def total() -> None: ...

        @dramatiq.actor
        def report() -> None:
            self.answer()

        self.job, self.total, self.report = nothing, total, report

    def fan(self, count: int) -> None:
        run_chain(self.jobs(count), self.report.message())

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            run_chain(*map(self.job.message, range(length - 1)), self.report.message())

    def nested(self, outer: int, inner: int) -> None:
        from dramatiq_workflow import Chain, Group

        parts = [Chain(self.jobs(inner), self.total.message()) for _ in range(outer)]
        run_chain(Group(*parts), self.report.message())

    def small(self, runs: int) -> None:
        for _ in range(runs):
            run_chain(self.jobs(3), self.jobs(3), self.jobs(3), self.report.message())

    def jobs(self, count: int) -> Any:
        from dramatiq_workflow import Group

        return Group(*map(self.job.message, range(count)))


def run_chain(*tasks: Any) -> None:
    from dramatiq_workflow import Chain, Workflow

    Workflow(Chain(*tasks)).run()


class WorkflowsWithResults(WithResults):
    """dramatiq-workflow leaves the ids of messages alone, so that a job can derive those of the jobs before it."""

    name = "dramatiq-workflow + Results"

    def coordinate(self, rate_limits: Any) -> None:
        from dramatiq_workflow import WorkflowMiddleware

        self.broker.add_middleware(WorkflowMiddleware(rate_limits))

    def declare(self) -> None:
        @dramatiq.actor(actor_name="step", store_results=True)
        def read_and_step(batch: str, number: int) -> int:
            return self.stepped(batch, number)

        @dramatiq.actor
        def last(batch: str, number: int) -> None:
            self.answer(self.stepped(batch, number))

        @dramatiq.actor(store_results=True)
        def total(batch: str, count: int) -> int:
            return sum(self.read(self.job, batch, count))

        @dramatiq.actor
        def grand_total(batch: str, count: int) -> None:
            self.answer(sum(self.read(self.total, batch, count)))

        @dramatiq.actor(store_results=True)
        def follow(batch: str, number: int, seconds: float) -> float:
            began = time.monotonic()
            return self.hop(began, self.ended(batch, number), seconds)

        @dramatiq.actor
        def end(batch: str, number: int) -> None:
            began = time.monotonic()
            self.arrive(began, self.ended(batch, number))

        self.step, self.last, self.total, self.grand_total = read_and_step, last, total, grand_total
        self.follow, self.end = follow, end

    def stepped(self, batch: str, number: int) -> int:
        return step(self.before(self.step, batch, number) if number else 0)

    def ended(self, batch: str, number: int) -> float:
        return float(self.before(self.follow, batch, number)) if number else NONE_BEFORE

    def before(self, actor: Any, batch: str, number: int) -> Any:
        """The result of the job before this one."""
        return actor.message().copy(message_id=f"{batch}-{number - 1}").get_result(backend=self.stored_results)

    def fan(self, count: int) -> None:
        batch = uuid4().hex
        run_chain(self.jobs(batch, count), self.report.message(batch, count))

    def series(self, beside: int, length: int) -> None:
        for _ in range(beside):
            batch = uuid4().hex
            steps = named((self.step.message(batch, number) for number in range(length - 1)), batch)
            run_chain(*steps, self.last.message(batch, length - 1))

    def nested(self, outer: int, inner: int) -> None:
        from dramatiq_workflow import Chain, Group

        batch = uuid4().hex
        parts = [f"{batch}-{number}" for number in range(outer)]
        totals = named((self.total.message(part, inner) for part in parts), batch)
        chains = (Chain(self.jobs(part, inner), total) for part, total in zip(parts, totals, strict=True))
        run_chain(Group(*chains), self.grand_total.message(batch, outer))

    def small(self, runs: int) -> None:
        for _ in range(runs):
            first, second, third = (uuid4().hex for _ in range(3))
            stages = (self.jobs(batch, 3) for batch in (first, second, third))
            run_chain(*stages, self.report.message(third, 3))

    def results(self, count: int, size: int) -> None:
        from dramatiq_workflow import Group

        batch = uuid4().hex
        texts = named((self.text.message(size) for _ in range(count)), batch)
        run_chain(Group(*texts), self.length.message(batch, count))

    def handover(self, hops: int, seconds: float) -> None:
        batch = uuid4().hex
        steps = named((self.follow.message(batch, number, seconds) for number in range(hops)), batch)
        run_chain(*steps, self.end.message(batch, hops))

    def wide(self, members: int) -> None:
        from dramatiq_workflow import Group

        batch = uuid4().hex
        moments = named((self.moment.message() for _ in range(members)), batch)
        run_chain(Group(*moments), self.gather.message(batch, members))

    def jobs(self, batch: str, count: int) -> Any:
        from dramatiq_workflow import Group

        return Group(*named(map(self.job.message, range(count)), batch))
