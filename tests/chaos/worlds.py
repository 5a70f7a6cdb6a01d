"""The worlds of the chaos run: see the README beside this file."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from unittest import mock

from dramatiq_clutch.backends.redis.scripts import script_names
from dramatiq_clutch.stored import formats
from dramatiq_clutch.stored.formats import FORMAT
from tests.chaos.app import App
from tests.chaos.processes import ForgetfulServer, Producer
from tests.chaos.recorded import RecordedServer
from tests.chaos.verdict import Verdict
from tests.chaos.world import Mischief, World, notes_of
from tests.support.prepared import ROOT
from tests.support.proxy import Proxy, Rule
from tests.support.server import Server


class Neighbours(World):
    """Two applications in one Redis, with the same actors' names and run ids, under everything that can happen there.

    One has its state store behind a proxy, and its broker not; the other a plain `ClutchMiddleware()`, so that one
    client serves both, and all of it behind another proxy.
    """

    title = "Two applications in one Redis"
    has_to_see = ("workers killed (-9)",)

    def __init__(self, seed: int, seconds: float) -> None:
        super().__init__(seed, seconds)
        self.server = RecordedServer()
        self.recorded = [self.server]
        self.proxies = [Proxy(self.server.port), Proxy(self.server.port)]
        self.rules: list[Rule] = []
        self.around = [self.server, *self.proxies]
        url = self.server.url
        shop = App("shop", url, notes_of(self.server, 1), state=url)
        mail = App("mail", url, notes_of(self.server, 2), namespace="other", unit=1_000)
        self.apps = [shop, mail]
        shop, mail = replace(shop, state=self.proxies[0].url), replace(mail, broker=self.proxies[1].url)
        self.workers = [self.worker(app) for app in (shop, shop, mail)]
        self.producers = [Producer(app, threads=2, forks=True, pause=0.2) for app in (shop, mail)]

    def mischief(self) -> Mischief:
        often = [self.kill_worker] * 6 + [self.kill_producer] * 3 + [self.flush_scripts, self.cut_connections] * 2
        rare = [self.pause_worker, self.pause_worker, self.restart_server, self.kill_server]
        return [*often, *rare, *[self.answer_errors] * 6]

    def has_seen_enough(self) -> bool:
        return super().has_seen_enough() and any(rule.met for rule in self.rules)

    def recover(self) -> None:
        for proxy in self.proxies:
            proxy.lift()
        self.events["calls answered with strange errors, or cut off"] = sum(rule.met for rule in self.rules)
        super().recover()

    def restart_server(self) -> None:
        self.server.list_keys()
        self.server.stop()
        self.server.start()
        self.events["servers stopped and started"] += 1

    def kill_server(self) -> None:
        self.server.list_keys()
        self.server.kill()
        self.server.start()
        self.events["servers killed (-9)"] += 1

    def flush_scripts(self) -> None:
        with self.server.client() as client:
            client.script_flush()
        self.events["SCRIPT FLUSH"] += 1

    def cut_connections(self) -> None:
        self.server.cut_connections()
        self.events["all connections cut"] += 1

    def answer_errors(self) -> None:
        """To some kinds of calls: once, a few times, or for some seconds, in which other things may happen. Some have
        been done all the same."""
        proxy = self.random.choice(self.proxies)
        calls = sorted(CALLS & set(proxy.calls))
        for call in self.random.sample(calls, k=min(4, len(calls))):
            error, applied = self.random.choice(ERRORS), self.random.random() < 0.3
            times = self.random.choice([1, 3, None])
            rule = proxy.answer(call, error, times=times, applied=applied) if error else proxy.cut(call, times=times)
            self.rules.append(rule)
            threading.Timer(self.random.uniform(0.5, 5), rule.lift).start()


#: What may be answered with an error: what concerns runs, and sending a message. What Dramatiq does besides, to fetch
#: and to ack, is its own affair.
CALLS = {
    *script_names(),
    *("enqueue", "HGET", "HGETALL", "HMGET", "LRANGE", "ZADD", "ZRANGEBYSCORE"),
}

#: What is on nobody's list. The empty one cuts the connection.
ERRORS = (
    "-NOPERM this user has no permissions to run the command",
    "-ERR upstream failure",
    "-WRONGTYPE Operation against a key holding the wrong kind of value",
    "-FLURB what nobody has heard of",
    "",
)


class MixedFleet(World):
    """Workers and producers of two releases; the newer one stores plans in a format that the older can't read."""

    title = "Two releases in one fleet"
    has_to_see = ("times without a newer worker",)

    def __init__(self, seed: int, seconds: float) -> None:
        super().__init__(seed, seconds)
        self.server, self.newer = RecordedServer(), NewerRelease()
        self.recorded = [self.server]
        self.around = [self.server, self.newer]
        app = App("shop", self.server.url, notes_of(self.server, 1))
        self.apps = [app]
        self.newer_worker = self.worker(app, root=self.newer.root)
        self.workers = [self.worker(app), self.worker(app), self.newer_worker]
        self.producers = [
            Producer(app, name="older", pause=0.3),
            Producer(app, name="newer", pause=0.3, root=self.newer.root),
        ]

    def mischief(self) -> Mischief:
        return [*[self.kill_worker] * 4, *[self.be_without_newer] * 2, self.kill_producer, self.pause_worker]

    def be_without_newer(self) -> None:
        """What is left to newer workers waits for one."""
        self.newer_worker.kill()
        time.sleep(self.random.uniform(1, 4))
        self.newer_worker.start()
        self.events["times without a newer worker"] += 1

    def judge(self, seconds: float) -> Verdict:
        with mock.patch.object(formats, "FORMAT", FORMAT + 1):  # the older release can't say how newer runs stand
            verdict = super().judge(seconds)
        if count := verdict.formats["newer", FORMAT]:
            verdict.wrong.append(f"{count} jobs of newer runs were executed by older workers")
        for (lane, version), count in verdict.formats.items():
            verdict.events[f"executions for {lane} producers by workers of format {version}"] += count
        return verdict


class NewerRelease:
    """A folder with a copy of the package that stores a newer format. A context manager.

    What is started in there imports it: Python looks in the present folder first.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-newer-")
        self.root = Path(self._folder.name)
        shutil.copytree(ROOT / "dramatiq_clutch", self.root / "dramatiq_clutch")
        (self.root / "tests").symlink_to(ROOT / "tests")
        file = self.root / "dramatiq_clutch" / "stored" / "formats.py"
        text, count = re.subn(r"(?m)^FORMAT = \d+$", f"FORMAT = {FORMAT + 1}", file.read_text())
        if count != 1:
            raise RuntimeError("formats.py doesn't say FORMAT = ... once")
        file.write_text(text)

    def __enter__(self) -> NewerRelease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._folder.cleanup()


class Failover(World):
    """The state store has a server of its own, which now and then comes back as it was a second ago."""

    title = "A state store that fails over a second back"
    has_to_see = ("failovers, a second back",)
    lenient = True

    def __init__(self, seed: int, seconds: float) -> None:
        super().__init__(seed, seconds)
        self.server, self.store = Server(durable=True), ForgetfulServer()
        self.around, self.recorded = [self.server, self.store], [self.store]
        options = {"resend_stalled": True, "stalled_after": 5_000}
        app = App("shop", self.server.url, notes_of(self.server, 1), state=self.store.url, options=options)
        self.apps = [app]
        self.workers = [self.worker(app), self.worker(app)]
        self.producers = [Producer(app, threads=2, forgetful=True, pause=0.3)]
        self.failed_over = 0.0

    def mischief(self) -> Mischief:
        return [*[self.fail_over] * 2, *[self.kill_worker] * 2, self.kill_producer]

    def fail_over(self) -> None:
        if time.monotonic() - self.failed_over > 5:
            self.store.fail_over(1.0)
            self.failed_over = time.monotonic()
            self.events["failovers, a second back"] += 1


WORLDS: dict[str, type[World]] = {"neighbours": Neighbours, "fleet": MixedFleet, "failover": Failover}
