"""What blocks, for coroutines: it is called in a thread.

Each of these coroutine functions is made of the method that it stands for, and has that one's parameters. So there is
one description of what is done and one way of doing it, and what is added to the method is in both. The alternative, a
second client that is asynchronous throughout, would be a second implementation of every hand-over.

The threads are this package's own, and few, for all coroutines of the process. The event loop's default executor isn't
used, because whatever else fills that would hold these calls up, and a cancelled run with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from .forks import renew_in_children

Self = TypeVar("Self")
Given = ParamSpec("Given")
Result = TypeVar("Result")

#: How many threads make calls for coroutines, at most. Each holds one connection to the store while it calls it.
MOST_THREADS = 8

ABOUT = """`{name}` for coroutines, with the same parameters: ``await {example}``. It returns, and raises, what `{name}`
        does.

        The call is made in one of the {most} threads that this package keeps for all coroutines of the process, with
        the context variables of the caller. So the event loop goes on, and a full default executor holds nothing up.

        If the task is cancelled before a thread has begun the call, nothing is done. A call that has begun goes on in
        its thread, and what comes of it isn't told. {after}
        """


class Threads:
    """The threads that make calls for coroutines."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child, which hasn't got the parent's threads."""
        self.pool: ThreadPoolExecutor = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="clutch-async")


_threads = Threads()


async def in_a_thread(call: Callable[[], Result]) -> Result:
    """What a call returns or raises that is made in one of our threads, in a copy of the present context."""
    return await asyncio.wrap_future(_threads.pool.submit(copy_context().run, call))


def for_coroutines(
    method: Callable[Concatenate[Self, Given], Result], *, example: str = "", after: str = ""
) -> Callable[[Callable[..., Any]], Callable[Concatenate[Self, Given], Coroutine[Any, Any, Result]]]:
    """Makes a method the coroutine function that calls a blocking one::

        @for_coroutines(status)
        def status_async(self) -> Any: ...

    Its name is all that is taken of the decorated method. `example` and `after` are for the docstring: a call, and what
    to do after the task was cancelled.
    """
    name = method.__name__
    example = example or f"run.{name}_async()"

    @wraps(method)
    async def call(self: Self, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        return await in_a_thread(partial(getattr(self, name), *args, **kwargs))

    call.__doc__ = ABOUT.format(name=name, example=example, most=MOST_THREADS, after=after).rstrip() + "\n        "

    def made_of(named: Callable[..., Any]) -> Callable[Concatenate[Self, Given], Coroutine[Any, Any, Result]]:
        call.__name__, call.__qualname__ = named.__name__, named.__qualname__
        return call

    return made_of
