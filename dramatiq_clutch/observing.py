"""Who is told what happens to runs: middlewares that are observers, in the process whose call has caused it."""

from __future__ import annotations

from collections.abc import Sequence

from dramatiq import Broker, Middleware
from dramatiq.logging import get_logger

from .news import News

logger = get_logger(__name__)


class Observer(Middleware):
    """A middleware that is also told of the transitions of runs: ``broker.add_middleware(MyObserver())``."""

    def after_transition(self, broker: Broker, run_id: str, news: News, at: int) -> None:
        """A call of this process has done this to a run, `at` this time (UNIX milliseconds), and nothing that follows
        from it is sent yet. Each of the events that the log of runs has (see `dramatiq_clutch.news`) is told once,
        unless the reply of the call was lost. An error that this raises is logged, and changes nothing."""


def tell(broker: Broker, run_id: str, news: Sequence[News], at: int) -> None:
    """Tell the broker's observers, in the order in which they were added."""
    for observer in broker.middleware if news else ():
        if isinstance(observer, Observer):
            for one in news:
                try:
                    observer.after_transition(broker, run_id, one, at)
                except Exception:
                    logger.exception("%r couldn't be told that run %s %s", observer, run_id, one.event)
