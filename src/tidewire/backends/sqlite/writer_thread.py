"""The one thread of a process that writes; every publication is delivered by it, in order.

A turn takes the write lock, begins, reads the publications of other processes, writes those that wait, commits,
releases the lock, wakes the other processes and hands everything new to the event loop in one call. A turn with nothing
to write only reads. Both move the same cursor, so no publication is skipped or comes twice.
"""

from __future__ import annotations

import logging
import selectors
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tidewire.backends.sqlite.connection import Connection
from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.delivery import Delivery, OrderAnswer
from tidewire.backends.sqlite.fair_lock import FairLock
from tidewire.backends.sqlite.file_errors import opening_error
from tidewire.backends.sqlite.folder import make_node_folder
from tidewire.backends.sqlite.housekeeping import Housekeeping
from tidewire.backends.sqlite.mailbox import DeliveryOrder, Mailbox
from tidewire.backends.sqlite.peers import Peers
from tidewire.backends.sqlite.publishing import Committer, WriteAnswer
from tidewire.backends.sqlite.size_limits import SizeLimits
from tidewire.backends.sqlite.store_clock import StoreClock
from tidewire.errors import TidewireError
from tidewire.messages import Publication

__all__ = ("Answer", "Post", "WriterThread")

logger = logging.getLogger("tidewire")

Answer = WriteAnswer | OrderAnswer
#: Hands publications and answers to the event loop, from this thread.
Post = Callable[[Sequence[Publication], Sequence[Answer]], None]

#: Seconds between looks for publications of other processes, for when a wake-up was lost.
_POLL = 0.5
#: Seconds between tries of a lock that another process holds, for when its holder died.
_RETRY = 0.005
#: Seconds between two steps of trimming, in which publishes come first.
_BREATH = 0.01


class WriterThread:
    """Runs from `start` until the mailbox is closed and empty."""

    def __init__(
        self,
        path: Path,
        name: Path,
        folder: Path,
        clock: StoreClock,
        mailbox: Mailbox,
        post: Post,
        resumed: Callable[[], None],
        lost: Callable[[], None],
        size_limits: SizeLimits,
        *,
        is_over: Callable[[], bool],
    ) -> None:
        self._path = path
        self._name = name
        self._folder = folder
        self._clock = clock
        self._mailbox = mailbox
        self._post = post
        self._resumed = resumed
        self._lost = lost
        #: Whether the event loop is closed, and nobody is left to tell.
        self._is_over = is_over
        self._size_limits = size_limits
        self._delivery = Delivery()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="tidewire-sqlite-writer", daemon=True)

    def start(self, started: Callable[[TidewireError | None], None], ended: Callable[[], None]) -> None:
        """Begin; `started` and `ended` are called from the thread, `ended` in any case."""
        self._started, self._ended = started, ended
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    @property
    def trouble(self) -> str:
        """Why the last try to write failed, "" when it did not."""
        return "" if self._connection is None else self._connection.trouble

    def suspect(self) -> None:
        """Mark the file as one that the next turn reads whole; callable from any thread."""
        if self._connection is not None:
            self._connection.is_suspect = True

    @property
    def seed(self) -> str:
        """The store's seed, known from the start on (database.derived_epoch)."""
        return "" if self._connection is None else self._connection.seed

    # The thread.

    def _run(self) -> None:
        try:
            connection = self._open_all()
        except TidewireError as error:
            self._started(error)
        except Exception as error:  # the caller that opens the store must be told of any error
            self._started(opening_error(error, self._path))
        else:
            self._started(None)
            self._loop(connection)
            self._close_all(connection)
        finally:
            self._ended()

    def _open_all(self) -> Connection:
        make_node_folder(self._path)
        with ExitStack() as opened:
            self._lock = FairLock(self._folder, "write")
            opened.callback(self._lock.close)
            self._peers = Peers(self._folder)
            opened.callback(self._peers.close)
            self._selector = opened.enter_context(selectors.DefaultSelector())
            for waker in (self._mailbox, self._peers):
                if waker.fileno() >= 0:
                    self._selector.register(waker.fileno(), selectors.EVENT_READ, waker.drain)
            connection = Connection(self._path, self._name, self._clock, self._lock, self._resumed, self._lost)
            opened.callback(connection.close)
            connection.open()
            self._housekeeping = Housekeeping(
                self._path, self._folder, self._clock, connection, self._lock, self._size_limits
            )
            self._housekeeping.start()
            opened.callback(self._housekeeping.close)
            self._committer = Committer(self._path, self._mailbox, connection, self._delivery, self._housekeeping)
            self._connection = connection
            self._opened = opened.pop_all()
        return connection

    def _close_all(self, connection: Connection) -> None:
        self._opened.close()
        self._refuse(connection, self._mailbox.take_orders())

    def _loop(self, connection: Connection) -> None:
        mailbox = self._mailbox
        while not mailbox.is_closed or mailbox.has_writes:
            try:
                self._wait(connection)
                if self._is_over():
                    mailbox.abandon()
                if not mailbox.is_congested:
                    self._turn(connection)
            except Exception:
                logger.exception("the writer thread of %s failed in a turn, and goes on", self._path)
                connection.lose("an internal error; see the log")

    def _wait(self, connection: Connection) -> None:
        limit = _BREATH if self._housekeeping.is_busy else _POLL
        if self._delivery.is_behind and not self._mailbox.is_congested:
            limit = 0.0
        if self._mailbox.has_writes and not self._mailbox.is_congested:
            limit = _RETRY if self._lock.is_waiting or connection.trouble else 0.0
        for key, _ in self._selector.select(limit):
            key.data()

    def _turn(self, connection: Connection) -> None:
        orders = self._mailbox.take_orders()
        database = connection.usable()
        if database is None:
            self._refuse(connection, orders)
            return
        has_writes = self._mailbox.has_writes
        if not has_writes:
            self._lock.withdraw()
        if (orders or self._delivery.is_behind or not has_writes) and not self._look(connection, database, orders):
            return
        if not has_writes:
            self._housekeeping.trim(database)
        elif not self._delivery.is_behind and self._lock.try_acquire():
            self._write(database)
        elif not orders:
            self._look(connection, database, ())

    def _write(self, database: Database) -> None:
        try:
            if not database.is_in_place:  # another process gave its name away before this one had the lock
                return
            found, answers = self._committer.commit(database)
        finally:
            self._lock.release()
        self._peers.wake()
        self._hand_over(found, answers)

    def _look(self, connection: Connection, database: Database, orders: Sequence[DeliveryOrder]) -> bool:
        """Read new publications and apply orders; return whether the database can still be used."""
        try:
            found, answers = self._delivery.look(database, orders)
        except sqlite3.Error as error:
            self._housekeeping.mend(database, error)
            self._refuse(connection, orders)
        else:
            self._hand_over(found, answers)
        return connection.database is database

    def _refuse(self, connection: Connection, orders: Sequence[DeliveryOrder]) -> None:
        """Answer everything that cannot be done while the database is lost."""
        answers: list[Answer] = [*self._delivery.refuse(orders, connection.trouble)]
        if connection.database is None:
            answers += self._committer.refuse()
        self._hand_over((), answers)

    def _hand_over(self, found: Sequence[Publication], answers: Sequence[Answer]) -> None:
        if found or answers:
            self._post(found, answers)
