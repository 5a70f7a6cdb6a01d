"""Brokers of other kinds than Redis' and the one in memory, for the suites that hold on each: a real server for each of
them, and runs that are kept on the session's.

`CLUTCH_TESTS_BROKERS=rabbitmq pytest tests/test_life.py` has the fixture `broker` give such a one.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import dramatiq
import pytest
from dramatiq.common import q_name

from tests.support.awaiting import PATIENCE
from tests.support.messages import Ledger
from tests.support.programs import Missing
from tests.support.server import Server

ROOT = Path(__file__).parents[2]

#: Which brokers the fixture `broker` gives, one after the other. In the quick tier, it gives the first one alone.
FIRST, *OTHERS = os.environ.get("CLUTCH_TESTS_BROKERS", "redis,stub").split(",")
CHOSEN = [FIRST, *(pytest.param(other, marks=pytest.mark.twice) for other in OTHERS)]


class Kind:
    """A kind of broker, with a server that is started when the first one is made, and stays for the session."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def make(self) -> Any:
        """A broker whose queues are empty."""
        raise NotImplementedError

    def clear(self, broker: Any) -> None:
        """Leave nothing of a broker behind, which is closed, that another one would meet."""
        broker.flush_all()


class Rabbit(Kind):
    def __init__(self) -> None:
        from tests.support.rabbitmq import RabbitMQ

        super().__init__()
        self.server = self.stack.enter_context(RabbitMQ())

    def make(self) -> Any:
        return self.server.broker(confirm_delivery=True)

    def clear(self, broker: Any) -> None:
        with self.server.channel() as channel:
            for queue in broker.get_declared_queues():
                for name in (queue, f"{queue}.DQ", f"{queue}.XQ"):
                    channel.queue_delete(name)


class Kombu(Rabbit):
    """dramatiq-kombu-broker, on RabbitMQ."""

    def __init__(self) -> None:
        self.package: Any = pytest.importorskip("dramatiq_kombu_broker")
        super().__init__()

    def make(self) -> Any:
        """One whose workers leave dead letters alone, also where the same process has sent something before."""

        class Broker(self.package.ConnectionPooledKombuBroker):  # type: ignore[misc, name-defined]
            def get_declared_queues(self) -> set[str]:
                return {q_name(queue) for queue in super().get_declared_queues()}

        return self.plain(Broker)

    def plain(self, kind: Any = None) -> Any:
        """One as it is."""
        where = {"hostname": f"amqp://guest:guest@127.0.0.1:{self.server.port}//"}
        return (kind or self.package.ConnectionPooledKombuBroker)(kombu_connection_options=where)

    def clear(self, broker: Any) -> None:
        with self.server.channel() as channel:
            for queue in broker.queues:
                for name in broker.topology.get_queue_name_tuple(queue):
                    channel.queue_delete(name)


class SettledFirst(dramatiq.Middleware):
    """Has who sends a message again wait until the broker has acked or rejected the one of that id before. For brokers
    that keep one message under an id: they would ack or reject the new one, as `test_other_brokers.py` shows."""

    def __init__(self) -> None:
        self._settling: dict[str, int] = {}
        self._changed = threading.Condition()

    def before_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        with self._changed:
            self._settling[message.message_id] = threading.get_ident()

    def after_ack(self, broker: dramatiq.Broker, message: Any) -> None:
        with self._changed:
            self._settling.pop(message.message_id, None)
            self._changed.notify_all()

    before_nack, after_nack = before_ack, after_ack

    def before_enqueue(self, broker: dramatiq.Broker, message: Any, delay: int | None) -> None:
        me, of = threading.get_ident(), message.message_id
        with self._changed:  # the thread that settles it itself, as in a hook, needn't wait
            self._changed.wait_for(lambda: self._settling.get(of, me) == me, PATIENCE)


class Relational(Kind):
    """dramatiq-postgres or dramatiq-pg, on PostgreSQL. Both are made alike, for one has come from the other."""

    package: str

    def __init__(self) -> None:
        from tests.support.postgres import Postgres

        super().__init__()
        self.module: Any = pytest.importorskip(self.package)
        self.server = self.stack.enter_context(Postgres())
        self.server.execute(self.module.generate_init_sql())

    def make(self) -> Any:
        broker = self.module.PostgresBroker(url=self.server.url, results=False)
        broker.add_middleware(SettledFirst())
        return broker

    def clear(self, broker: Any) -> None:
        self.server.execute("truncate dramatiq.queue")


class DramatiqPostgres(Relational):
    package = "dramatiq_postgres"


class DramatiqPg(Relational):
    package = "dramatiq_pg"


class SQLite(Kind):
    """dramatiq-sqlite, in a file."""

    def make(self) -> Any:
        package: Any = pytest.importorskip("dramatiq_sqlite")
        folder = self.stack.enter_context(TemporaryDirectory(prefix="clutch-sqlite-"))

        class Consumer(package.SQLiteConsumer):  # type: ignore[misc]
            def requeue(self, messages: Any) -> None:
                """Leave them as they are, as it would if it didn't raise a syntax error of SQL."""

        class Broker(package.SQLiteBroker):  # type: ignore[misc]
            def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Any:
                return Consumer(url=self.db_url, queue_name=queue_name, prefetch=prefetch, timeout=timeout)

        broker = Broker(url=f"sqlite://{folder}/queue.db")
        broker.add_middleware(SettledFirst())
        return broker

    def clear(self, broker: Any) -> None:
        """Each has a file of its own."""


class Streams(Kind):
    """dramatiq-redis-streams, on a server of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.package: Any = pytest.importorskip("dramatiq_redis_streams")
        self.server = self.stack.enter_context(Server())

    def make(self) -> Any:
        return self.package.StreamsBroker(url=self.server.url, namespace=f"dramatiq-{uuid.uuid4().hex[:8]}")

    def clear(self, broker: Any) -> None:
        """Each has a namespace of its own."""


class Custom(Kind):
    """The example of a broker of one's own, in a file."""

    def make(self) -> Any:
        folder = self.stack.enter_context(TemporaryDirectory(prefix="clutch-custom-"))
        return sqlite_broker().SQLiteBroker(f"{folder}/queue.sqlite")

    def clear(self, broker: Any) -> None:
        """Each has a file of its own."""


def sqlite_broker() -> ModuleType:
    """The module of the example."""
    spec = importlib.util.spec_from_file_location("sqlite_broker", ROOT / "examples" / "sqlite_broker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KINDS: dict[str, type[Kind]] = {
    "rabbitmq": Rabbit,
    "kombu": Kombu,
    "postgres": DramatiqPostgres,
    "pg": DramatiqPg,
    "sqlite": SQLite,
    "streams": Streams,
    "custom": Custom,
}


class Brokers:
    """The kinds that a session has used so far."""

    def __init__(self) -> None:
        self._known: dict[str, Kind] = {}

    def close(self) -> None:
        for kind in self._known.values():
            kind.stack.close()

    def kind(self, name: str) -> Any:
        """A kind, with its server. Where that, or the package, can't be had, the test is skipped."""
        if name not in self._known:
            try:
                self._known[name] = KINDS[name]()
            except Missing as error:
                pytest.skip(str(error))
        return self._known[name]

    @contextmanager
    def broker(self, name: str) -> Iterator[dramatiq.Broker]:
        """A broker of this kind, without the middleware."""
        kind = self.kind(name)
        broker = kind.make()
        broker.add_middleware(Ledger())
        try:
            yield broker
        finally:
            kind.clear(broker)
