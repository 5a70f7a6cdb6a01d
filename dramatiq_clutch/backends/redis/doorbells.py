"""Has an idle worker look into a queue as soon as something is put there that its sender's own worker doesn't take.

A consumer of Dramatiq's that has found nothing sleeps for up to a second. So whoever sends such messages rings the
doorbell of their queue: it puts a token into a list that all workers of the queue wait at, by a command that blocks.
The server gives the token to the worker that has waited longest. That one fetches what it has place for; if it has
none, or may have left something, it rings for the next worker, and waits for no token until it has place again. So a
token wakes as many workers as there is work for, one after the other; and where there is nothing to do it is one
command of each worker in `WAIT` seconds.

Nothing depends on a token. Where one is lost, or nobody waits for it, the messages are found by the consumers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import q_name
from dramatiq.logging import get_logger

from ...forks import renew_in_children
from ...tokens import new_token
from . import resp
from .desk import Desk
from .outages import refuses_command
from .scripts import script

#: For how many seconds a worker waits for a token before it asks anew, perhaps for more queues; for how many as long as
#: it has no place for messages of some queues; and for how many more it waits for the server's answer. A network may
#: cut a connection on which nothing happens for longer.
WAIT, SHORT, MORE = 4, 1, 5

#: What threads are called here.
NAME = "clutch-doorbell"

#: How many milliseconds a token stays that nobody takes, because no worker has place for longer.
LINGERS = 60_000

#: How often a worker that has no place looks whether it has, in seconds; that asks the server nothing.
BUSY = 0.05

#: How many seconds it waits after an error, and after many in a row at most.
PAUSE, LONGEST = 1.0, 30.0

logger: logging.Logger = get_logger(__name__)


class _Listening:
    """A worker that waits for tokens, by a connection of its own, until it is told to stop. `own` is the name of a
    doorbell that only this worker waits at: no queue has such a name."""

    def __init__(self, connection: Any) -> None:
        self.connection: Any = connection
        self.own: str = f"!{new_token()}"
        self.stopping: threading.Event = threading.Event()


class Doorbells:
    """The doorbells of one broker's queues, in this process.

    Parameters:
      broker: the broker.
      desk: fetches for the workers.
    """

    def __init__(self, broker: RedisBroker, desk: Desk) -> None:
        self._broker, self._desk = broker, desk
        self._told = False
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a forked child: the parent's workers, and their connections, aren't the child's."""
        self._listening: dict[int, _Listening] = {}

    # Whoever sends

    def rings(self, queues: Iterable[str]) -> list[resp.Command]:
        """The commands that ring the doorbells of these queues."""
        text = script("ring").text  # the whole of it, which is short: no SCRIPT FLUSH has to be thought of then
        return [("EVAL", text, 1, self._key(queue), LINGERS) for queue in queues]

    def ring(self, queues: Iterable[str]) -> None:
        """Ring the doorbells of these queues, for what has been sent already. Raises nothing: if that can't be done,
        consumers find it."""
        try:
            self.heed(resp.send(self._broker.client, self.rings(queues)))
        except Exception as error:
            logger.debug("No worker could be woken: %r", error)

    def heed(self, answers: Iterable[Any]) -> None:
        """The server's answers to `rings`: it is told once if it doesn't allow them."""
        for answer in answers:
            if isinstance(answer, Exception):
                self._log(answer)

    def _key(self, queue: str) -> str:
        return f"{self._broker.namespace}:__doorbell__.{queue}"

    # Workers

    def attend(self, worker: Worker) -> None:
        """Have a worker that boots wait for tokens, unless its client's pool isn't one of redis-py's, by which a
        connection could be made here."""
        try:
            connection = resp.own_connection(self._broker.client, socket_timeout=WAIT + MORE)
        except Exception as error:  # of whatever kind the pool is
            logger.debug("A worker doesn't wait for tokens: %r", error)
            return
        listening = _Listening(connection)
        self._listening[id(worker)] = listening
        threading.Thread(target=self._listen, args=(worker, listening), name=NAME, daemon=True).start()

    def leave(self, worker: Worker) -> None:
        """It is told to stop: it takes no token any more."""
        listening = self._listening.pop(id(worker), None)
        if listening is not None:
            listening.stopping.set()
            # In a thread of its own, for a worker that stops mustn't wait for the server.
            threading.Thread(target=self.ring, args=([listening.own],), name=NAME, daemon=True).start()

    def _listen(self, worker: Worker, listening: _Listening) -> None:
        pause = PAUSE
        try:
            while not listening.stopping.is_set():
                queues = [queue for queue in list(worker.consumers) if q_name(queue) == queue]
                wanted = [queue for queue in queues if self._desk.has_place(worker, queue)]
                if not wanted:
                    listening.stopping.wait(BUSY)
                    continue
                began, seconds = time.monotonic(), WAIT if wanted == queues else SHORT
                try:
                    queue = self._wait(listening.connection, [*wanted, listening.own], seconds)
                except Exception as error:  # of whatever client the broker has
                    listening.connection.disconnect()
                    if self._log(error):
                        return
                    pause = PAUSE if time.monotonic() - began > PAUSE else pause  # it could wait for a while
                    listening.stopping.wait(pause)
                    pause = min(2 * pause, LONGEST)
                    continue
                pause = PAUSE
                if queue not in (None, listening.own) and not self._answer(worker, queue, listening):
                    self.ring([queue])  # for another worker
        finally:
            listening.connection.disconnect()

    def _wait(self, connection: Any, queues: Sequence[str], seconds: float) -> str | None:
        """Wait for a token at the doorbells of these queues. Returns the queue whose doorbell has rung, or None if none
        has for so many seconds. Raises what the client raises."""
        by_key = {self._key(queue): queue for queue in queues}
        connection.send_packed_command([resp.packed(("BLPOP", *by_key, seconds))])
        found = connection.read_response()
        return None if found is None else by_key[found[0].decode()]

    def _answer(self, worker: Worker, queue: str, listening: _Listening) -> bool:
        """Fetch what there is in a queue. Returns whether nothing is left there."""
        if listening.stopping.is_set():
            return False
        try:
            return self._desk.answer(worker, queue)
        except Exception as error:  # whatever it is, the token isn't to be lost
            logger.debug("A worker that was woken couldn't look into queue %r: %r", queue, error)
            listening.stopping.wait(PAUSE)
            return False

    def _log(self, error: Exception) -> bool:
        """Log an error; once as a warning, if the server doesn't allow it at all. Returns whether that is so."""
        logger.debug("No token can be put or waited for at present: %r", error)
        if refuses_command(error) and not self._told:
            self._told = True
            logger.warning(
                "Idle workers find what others send by looking, as Dramatiq's consumers do, which takes up to a "
                "second, because %s can't be used: %s",
                self._key("*"),
                error,
            )
        return refuses_command(error)
