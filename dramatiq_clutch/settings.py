"""The settings of a middleware: what they are unless somebody says otherwise, and what they can't be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .backend import ClutchBackend
from .durations import Duration, milliseconds
from .engine import DEFAULT_HISTORY_MAX, DEFAULT_STALLED_AFTER

#: How long a run's keys live after its last activity, in milliseconds: 60 days. Dramatiq's default retries take up
#: to 46 days, and a run must outlive them.
DEFAULT_RUN_TTL = 60 * 86_400_000

#: The shortest time for which a run's keys may live, in milliseconds. With less, a run is gone while a message of it
#: waits; what is less has mostly been meant as seconds.
LEAST_RUN_TTL = 60_000

#: How long a succeeded run's result stays, in milliseconds: ten minutes, as in Dramatiq's Results.
DEFAULT_RESULT_TTL = 600_000

#: How long the status of a run that has succeeded stays at least, in milliseconds, for who looks through runs: a week.
DEFAULT_HISTORY_TTL = 7 * 86_400_000

#: How long the holder of a duty has it to itself, in milliseconds.
DEFAULT_LEASE = 30_000

#: How often a worker process looks for runs whose duties nobody does, in milliseconds.
DEFAULT_SWEEP_INTERVAL = 15_000

#: The settings that a `repr` shows, with their defaults.
DEFAULTS: dict[str, Any] = {
    "run_ttl": DEFAULT_RUN_TTL,
    "result_ttl": DEFAULT_RESULT_TTL,
    "history_ttl": DEFAULT_HISTORY_TTL,
    "history_max": DEFAULT_HISTORY_MAX,
    "lease": DEFAULT_LEASE,
    "sweep_interval": DEFAULT_SWEEP_INTERVAL,
    "stalled_after": DEFAULT_STALLED_AFTER,
    "resend_stalled": False,
    "application": None,
    "carry": (),
}


def changed_settings(middleware: object) -> Iterator[str]:
    """The settings of a middleware that aren't the defaults, as they were written."""
    for name, default in DEFAULTS.items():
        value = getattr(middleware, name)
        if value != default:
            yield f"{name}={value:_}" if type(value) is int else f"{name}={value!r}"


def valid_backend(backend: Any) -> ClutchBackend | None:
    """The backend. Raises TypeError for anything else, and doesn't show it, because an address may have a password."""
    if backend is None or isinstance(backend, ClutchBackend):
        return backend
    given = (
        f"the class {backend.__name__}" if isinstance(backend, type) else f"a value of type {type(backend).__name__}"
    )
    raise TypeError(
        f"ClutchMiddleware takes a backend, not {given}: say ClutchMiddleware(RedisBackend(url=...)), or "
        "RedisBackend(client=...); with a RedisBroker or a StubBroker ClutchMiddleware() is enough"
    )


def valid_run_ttl(run_ttl: Duration) -> int:
    """The time in milliseconds. Raises ValueError for less than LEAST_RUN_TTL."""
    number = milliseconds(run_ttl, "run_ttl", least=1)
    if number < LEAST_RUN_TTL:
        meant = f". If {number} was meant as seconds, say run_ttl={number * 1000:_} or timedelta(seconds={number})"
        raise ValueError(
            f"run_ttl is {run_ttl!r}, in which a run would be gone while its messages wait: it is a number of "
            f"milliseconds, at least {LEAST_RUN_TTL:_}, or a timedelta" + (meant if isinstance(run_ttl, int) else "")
        )
    return number


def valid_history_max(most: int) -> int:
    if type(most) is not int or most < 0:
        raise ValueError(f"history_max is {most!r}; it is how many runs that have ended are kept, 0 or more")
    return most
