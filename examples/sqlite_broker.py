"""A complete broker of your own: messages are kept in a file, by SQLite. `custom_broker.py` runs a clutch on it.

A clutch needs of a broker that it delivers at least once: what was enqueued is durable when `enqueue` returns, and what
isn't acked comes again. It is Dramatiq's worker that asks the middleware before each ack, and that is where the end of
a job is recorded. So a consumer acks when its `ack` is called, and never earlier.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import dramatiq
from dramatiq.errors import ConnectionClosed, DecodeError, QueueNotFound

# Two messages may have one message_id, as copies do: each has a row, so that none takes another's place.
# `due`, in UNIX ms: when it may be fetched, for its delay is over, or who has fetched it was silent for too long.
SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  id INTEGER PRIMARY KEY, queue TEXT, body BLOB, due INTEGER, holder TEXT, dead INTEGER DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_queue ON messages (queue, dead, due);
"""
PUT = "INSERT INTO messages (queue, body, due) VALUES (?, ?, ?)"
FETCH = """
UPDATE messages SET holder = ?, due = ? WHERE id =
  (SELECT id FROM messages WHERE queue = ? AND NOT dead AND due <= ? ORDER BY due, id LIMIT 1) RETURNING id, body
"""
RENEW = "UPDATE messages SET due = ? WHERE queue = ? AND holder = ?"
HELD = "SELECT count(*) FROM messages WHERE queue = ? AND holder = ?"
DELETE = "DELETE FROM messages WHERE id = ? AND holder = ?"
BURY = "UPDATE messages SET dead = 1, holder = NULL WHERE id = ? AND holder = ?"
PUT_BACK = "UPDATE messages SET due = 0, holder = NULL WHERE id = ? AND holder = ?"


def now() -> int:
    return int(time.time() * 1_000)


class SQLiteBroker(dramatiq.Broker):
    """`lease` is for how long a worker may be silent until its messages are delivered again, in milliseconds."""

    def __init__(self, path: str, *, lease: int = 60_000, **options: Any) -> None:
        super().__init__(**options)
        self.path, self.lease = path, lease
        self.name = uuid.uuid4().hex  # holds what its consumers fetch, for these are made anew after an error
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(SCHEMA)

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None  # it needs no queue for delayed messages, for each has its own time
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Errors mean *wait*: the job that has caused this message stays unacked, and it is tried again until it works.
        Only a few are known to be final, and fail the run: QueueNotFound, ActorNotFound, and, of a broker that can't
        keep a message for so long, a ValueError about the delay. So raise, and don't return before it is durable."""
        if message.queue_name not in self.queues:
            raise QueueNotFound(message.queue_name)
        self.emit_before("enqueue", message, delay)  # all middleware hears of each message, before and after
        self.execute(PUT, message.queue_name, message.encode(), now() + (delay or 0))
        self.emit_after("enqueue", message, delay)
        return message

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        return Consumer(self, queue_name, prefetch, timeout)

    def flush(self, queue_name: str) -> None:
        self.execute("DELETE FROM messages WHERE queue = ?", queue_name)

    def execute(self, statement: str, *values: object) -> list[Any]:
        """One step, in a connection of its own, for all threads of a worker come here."""
        with translated(), closing(sqlite3.connect(self.path, timeout=30)) as database, database:
            return database.execute(statement, values).fetchall()


class Consumer(dramatiq.Consumer):
    def __init__(self, broker: SQLiteBroker, queue: str, prefetch: int, timeout: int) -> None:
        self.broker, self.queue, self.prefetch, self.timeout = broker, queue, prefetch, timeout
        self.renewed_at = 0

    def __next__(self) -> Fetched | None:
        """The worker asks again and again, also while all its threads work: thus a worker that lives is heard of."""
        execute, me, until = self.broker.execute, self.broker.name, now() + self.broker.lease
        if now() >= self.renewed_at + self.broker.lease // 4:
            execute(RENEW, until, self.queue, me)
            self.renewed_at = now()
        ((held,),) = execute(HELD, self.queue, me)
        for row, body in execute(FETCH, me, until, self.queue, now()) if held < self.prefetch else []:
            try:
                return Fetched(row, dramatiq.Message.decode(body))
            except DecodeError:
                execute(BURY, row, me)
        time.sleep(min(self.timeout, 100) / 1_000)
        return None

    # A worker calls `before_ack` or `before_nack` of all middleware, then one of these. If a hook raises, it calls none
    # of them, and the message has to stay as it is. After a connection error it calls the hook, and this, once more.

    def ack(self, message: Any) -> None:
        self.broker.execute(DELETE, message.row, self.broker.name)

    def nack(self, message: Any) -> None:
        self.broker.execute(BURY, message.row, self.broker.name)

    def requeue(self, messages: Iterable[Any]) -> None:
        """What was fetched and not begun when the worker stops."""
        for message in messages:
            self.broker.execute(PUT_BACK, message.row, self.broker.name)


class Fetched(dramatiq.MessageProxy):
    def __init__(self, row: int, message: dramatiq.Message[Any]) -> None:
        super().__init__(message)
        self.row = row


@contextmanager
def translated() -> Iterator[None]:
    """What SQLite says of a file that is locked, full or away is a connection error for Dramatiq's worker, which then
    makes its consumer anew, or acks once more, instead of giving up."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ConnectionClosed(f"{error}") from error
