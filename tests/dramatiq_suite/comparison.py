"""Dramatiq's tests without the middleware and with it, test by test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.dramatiq_suite.suite import Outcomes, Suite

#: How often a test that has come to another end is repeated by itself, without the middleware and with it.
REPEATED = 3


@dataclass(frozen=True)
class Comparison:
    """How Dramatiq's tests have ended, by their names; how many brokers have had the middleware; and of those tests
    that have passed without it alone, how often they have passed when they were repeated, without it and with it."""

    without: Outcomes
    with_middleware: Outcomes
    brokers: int
    repeated: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def worse(self) -> list[str]:
        """What has passed without the middleware alone."""
        return [name for name, end in self.without.items() if end == "passed" != self.with_middleware.get(name)]

    @property
    def broken(self) -> list[str]:
        """What passes less often with the middleware than without it."""
        return [name for name in self.worse if name not in self.repeated or self._is_less_often(name)]

    @property
    def is_well(self) -> bool:
        return bool(self.brokers) and "passed" in self.without.values() and not self.broken

    def _is_less_often(self, name: str) -> bool:
        without, with_middleware = self.repeated[name]
        return with_middleware < without

    def __str__(self) -> str:
        counts = [Counter(outcomes.values()) for outcomes in (self.without, self.with_middleware)]
        lines = [f"{'':10}{'without':>10}{'with it':>10}"]
        lines += [f"{kind:10}{counts[0][kind]:>10}{counts[1][kind]:>10}" for kind in ("passed", "failed", "skipped")]
        lines += ["", f"{self.brokers} brokers have had the middleware."]
        for name in self.worse:
            without, with_middleware = self.repeated.get(name, (0, 0))
            again = f"of {REPEATED} times again, {without} without it and {with_middleware} with it"
            lines.append(f"{name} passed without it alone; {again}")
        better = [name for name, end in self.with_middleware.items() if end == "passed" != self.without.get(name)]
        lines += [f"{name} passed with it alone" for name in better]
        lines += [f"{name} fails either way" for name, end in self.without.items() if self._fails(name, end)]
        return "\n".join(lines)

    def _fails(self, name: str, end: str) -> bool:
        return end == "failed" == self.with_middleware.get(name)


def compare(suite: Suite, *arguments: str) -> Comparison:
    """Run Dramatiq's tests twice. Raises NoSuite."""
    without, _ = suite.run(*arguments, with_middleware=False)
    with_middleware, brokers = suite.run(*arguments, with_middleware=True)
    first = Comparison(without, with_middleware, brokers)
    return Comparison(without, with_middleware, brokers, {name: _repeat(suite, name) for name in first.worse})


def _repeat(suite: Suite, name: str) -> tuple[int, int]:
    passed = Counter[bool]()
    for _ in range(REPEATED):
        for with_middleware in (False, True):
            outcomes, _ = suite.run(name, with_middleware=with_middleware)
            passed[with_middleware] += outcomes.get(name) == "passed"
    return passed[False], passed[True]
