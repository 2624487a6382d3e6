"""The one thread of a process that writes: it groups what waits into commits, and delivers all publications in order.

A turn takes the write lock, begins, reads what other processes have published, takes what waits, writes it, commits,
lets the lock go, wakes the other processes and hands all that is new to the event loop in one call. A turn that has
nothing to write only reads. Both move the same cursor, so no publication is skipped or comes twice.
"""

from __future__ import annotations

import logging
import selectors
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from tidewire.backends.sqlite.checkpoint import Checkpointer
from tidewire.backends.sqlite.database import Store
from tidewire.backends.sqlite.disk_reserve import Reserve
from tidewire.backends.sqlite.fair_lock import Turnstile
from tidewire.backends.sqlite.file_errors import explain, is_certain, is_full, is_lasting, opening_error
from tidewire.backends.sqlite.housekeeping import Trimmer
from tidewire.backends.sqlite.mailbox import Mailbox, Subscribing, Write
from tidewire.backends.sqlite.peers import Peers
from tidewire.backends.sqlite.store_clock import StoreClock
from tidewire.errors import NotPublished, PublishUnconfirmed, StoreUnavailable, TidewireError
from tidewire.messages import Position, Publication

__all__ = ("Answer", "Post", "Writer")

logger = logging.getLogger("tidewire")

Answer = tuple[Write | Subscribing, Position | TidewireError]
#: Hands publications and answers to the event loop, from this thread.
Post = Callable[[Sequence[Publication], Sequence[Answer]], None]

#: Seconds between looks for what other processes published, for when a wake-up was lost.
_POLL = 0.5
#: Seconds between tries of a lock that another process holds, for when its holder died.
_RETRY = 0.005
#: Seconds between tries to open a store that failed.
_REOPEN = 0.5
#: Bytes that a commit, and a row in it, add to the log beside the data, about.
_COMMIT_COST = 20_480
_ROW_COST = 300
#: Channels that one look for something to trim goes through, and rows that an idle step removes.
_TRIM_CHANNELS = 8
_TRIM_STEP = 150
#: Rows that a commit removes beside what it writes: for each row, and at least.
_TRIM_SHARE = 2
_TRIM_LEAST = 50
#: Seconds between two steps of trimming, in which publishes come first.
_BREATH = 0.01
#: Seconds between two attempts to make room on a full disk, and steps of trimming in each.
_RELIEF = 1.0
_RELIEF_STEPS = 20
#: What one commit takes at most.
_BATCH_COUNT = 1_000
_BATCH_BYTES = 4 * 1_048_576
#: Seconds in which a start waits for other processes that are starting.
_START = 5.0


class Writer:
    """Owns the writing connection, on a thread of its own, from `start` until the mailbox is closed and empty."""

    def __init__(
        self, path: Path, folder: Path, clock: StoreClock, mailbox: Mailbox, post: Post, resumed: Callable[[], None]
    ) -> None:
        self._path = path
        self._folder = folder
        self._clock = clock
        self._mailbox = mailbox
        self._post = post
        self._resumed = resumed
        self._carried: set[str] = set()
        self._store: Store | None = None
        self._reopen_at = 0.0
        self._is_behind = False
        self._cursor = 0
        self._trimmer = Trimmer(clock)
        self._relieved_at = 0.0
        self._is_trimming = False
        #: Why the last try to write failed, "" when it did not.
        self.trouble = ""
        #: The store's seed, known from the start on (store.derived_epoch).
        self.seed = ""
        self._thread = threading.Thread(target=self._run, name="tidewire-sqlite-writer", daemon=True)

    def start(self, started: Callable[[TidewireError | None], None], ended: Callable[[], None]) -> None:
        """Begin; `started` and `ended` are called from the thread, `ended` in any case."""
        self._started, self._ended = started, ended
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    # The thread.

    def _run(self) -> None:
        try:
            self._open_all()
        except TidewireError as error:
            self._started(error)
        except Exception as error:  # whatever it is, whoever opens the store must be told
            self._started(opening_error(error, self._path))
        else:
            self._started(None)
            self._loop()
            self.trouble = f"{self._path} is closed; use the broker between its start and its close"
            self._refuse(self._mailbox.take_subscribing())
            self._close_all()
        self._ended()

    def _open_all(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._turnstile = Turnstile(self._folder, "write")
        try:
            self._peers = Peers(self._folder)
            try:
                self._store = self._open_store()
            except BaseException:
                self._peers.close()
                raise
        except BaseException:
            self._turnstile.close()
            raise
        self.seed = self._store.seed
        self._reserve = Reserve(self._folder)
        self._reserve.take()
        self._checkpointer = Checkpointer(self._path, self._reserve.size)
        self._selector = selectors.DefaultSelector()
        for waker in (self._mailbox, self._peers):
            if waker.fileno() >= 0:
                self._selector.register(waker.fileno(), selectors.EVENT_READ)

    def _open_store(self) -> Store:
        """Open the database under the write lock, because the first process makes it."""
        limit = time.monotonic() + _START
        while not self._turnstile.try_acquire():
            if time.monotonic() > limit:
                self._turnstile.withdraw()
                raise StoreUnavailable(f"another process has held the lock of {self._path} for {_START:g} s; end it")
            time.sleep(_RETRY)
        try:
            return Store(self._path, self._clock)
        finally:
            self._turnstile.release()

    def _close_all(self) -> None:
        self._checkpointer.close()
        self._selector.close()
        self._peers.close()
        self._turnstile.close()
        if self._store is not None:
            self._store.close()

    def _loop(self) -> None:
        mailbox = self._mailbox
        while not mailbox.is_closed or mailbox.has_writes:
            try:
                self._wait()
                self._turn()
            except Exception:
                logger.exception("the writer thread of %s failed in a turn, and goes on", self._path)
                self._break("an internal error; see the log")

    def _wait(self) -> None:
        limit = _BREATH if self._is_trimming else _POLL
        if self._is_behind and not self._mailbox.is_congested:
            limit = 0.0
        if self._mailbox.has_writes and not self._mailbox.is_congested:
            limit = _RETRY if self._turnstile.is_waiting or self.trouble else 0.0
        self._selector.select(limit)
        self._mailbox.drain()
        self._peers.drain()

    def _turn(self) -> None:
        if self._mailbox.is_congested:
            return
        orders = self._mailbox.take_subscribing()
        if self._store is not None and self._store.is_replaced:
            self._break(f"{self._path} was removed or replaced while it was open; it is opened anew")
            self._reopen_at = 0.0
        store = self._store or self._reopen()
        if store is None:
            self._refuse(orders)
            return
        has_writes = self._mailbox.has_writes
        if not has_writes:
            self._turnstile.withdraw()
        if orders or self._is_behind or not has_writes:
            self._look(store, orders)
        if self._store is None:
            return
        if not has_writes:
            self._trim(store)
        elif not self._is_behind and self._turnstile.try_acquire():
            try:
                found, answers = self._write(store)
            finally:
                self._turnstile.release()
            self._peers.wake()
            self._hand_over(found, answers)
        elif not orders:
            self._look(store, ())

    def _look(self, store: Store, orders: Sequence[Subscribing]) -> None:
        """Read what is new, and subscribe in the same moment."""
        answers: list[Answer] = []
        try:
            store.begin(write=False)
            found, is_all = store.catch_up(self._carried)
            for order in orders:
                if order.future is None:
                    self._carried.discard(order.channel)
                else:
                    answers.append((order, store.position(order.channel)))
                    self._carried.add(order.channel)
            store.commit()
        except sqlite3.Error as error:
            self._fail(store, error)
            self._refuse(orders)
            return
        self._is_behind = not is_all
        self._hand_over(found, answers)

    def _write(self, store: Store) -> tuple[Sequence[Publication], Sequence[Answer]]:
        """Make one commit, with the lock held; return what is to be told when the lock is free again."""
        writes: list[Write] = []
        answers: list[Answer] = []
        is_committing = False
        try:
            store.begin(write=True)
            found, is_all = store.catch_up(self._carried)
            if is_all:
                writes = self._mailbox.take(_BATCH_COUNT, _BATCH_BYTES)
                self._keep(store, writes, found, answers)
                self._is_trimming = self._trimmer.find(store.connection, _TRIM_CHANNELS)
                if self._is_trimming:
                    self._trimmer.remove(store.connection, max(_TRIM_LEAST, _TRIM_SHARE * len(writes)))
            is_committing = True
            store.commit()
        except sqlite3.Error as error:
            self._fail(store, error)
            return (), self._failed(writes, error, is_certain=not is_committing or is_certain(error))
        except Exception as error:
            logger.exception("a commit to %s failed by a fault of the program", self._path)
            self._break(f"an internal error ({error}); see the log")
            return (), self._failed(writes, error, is_certain=not is_committing)
        self.trouble, self._is_behind = "", not is_all
        self._checkpointer.committed(store.connection, _COMMIT_COST + sum(write.size + _ROW_COST for write in writes))
        return found, answers

    def _keep(self, store: Store, writes: Sequence[Write], found: list[Publication], answers: list[Answer]) -> None:
        for removes, group in groupby(writes, key=lambda write: write.removes):
            run = list(group)
            if removes:
                for write in run:
                    store.remove_history(write.request.channel)
                    answers.append((write, store.position(write.request.channel)))
                continue
            positions, new = store.keep([write.request for write in run], self._carried)
            found.extend(new)
            answers.extend((write, position) for write, position in zip(run, positions, strict=True))

    def _hand_over(self, found: Sequence[Publication], answers: Sequence[Answer]) -> None:
        if found or answers:
            self._post(found, answers)

    def _trim(self, store: Store) -> None:
        """Take one step of trimming in an idle moment."""
        try:
            is_found = self._trimmer.find(store.connection, _TRIM_CHANNELS)
        except sqlite3.Error as error:
            self._fail(store, error)
            return
        self._is_trimming = is_found or not self._trimmer.is_resting
        if not is_found:
            return
        if not self._turnstile.try_acquire():
            self._turnstile.withdraw()
            return
        try:
            store.begin(write=True)
            self._trimmer.remove(store.connection, _TRIM_STEP)
            store.save_clock()
            store.commit()
            self._checkpointer.committed(store.connection, _TRIM_STEP * _ROW_COST)
        except sqlite3.Error as error:
            self._fail(store, error)
        finally:
            self._turnstile.release()

    # Trouble.

    def _fail(self, store: Store, error: sqlite3.Error) -> None:
        store.rollback()
        self._trimmer.restart(pause=_RELIEF)
        self.trouble = explain(error, self._path)
        if is_full(error):
            self._relieve(store)
        elif is_lasting(error):
            self._break(self.trouble)

    def _relieve(self, store: Store) -> None:
        """Make room on a full disk: only what nobody is shown any more is removed."""
        if time.monotonic() - self._relieved_at < _RELIEF:
            return
        self._relieved_at = time.monotonic()
        self._reserve.give_up()
        self._trimmer.restart()
        try:
            store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for _ in range(_RELIEF_STEPS):
                if self._trimmer.find(store.connection, _TRIM_CHANNELS):
                    store.begin(write=True)
                    self._trimmer.remove(store.connection, _TRIM_STEP)
                    store.commit()
            store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            store.rollback()
            self._trimmer.restart(pause=_RELIEF)
        self._reserve.take()

    def _break(self, trouble: str) -> None:
        """Use this connection no more; a new one is opened soon."""
        self.trouble = trouble
        if self._store is not None:
            self._store.rollback()
            self._cursor = self._store.cursor
            self._store.close()
            self._store = None
        self._reopen_at = time.monotonic() + _REOPEN

    def _reopen(self) -> Store | None:
        if time.monotonic() < self._reopen_at or not self._turnstile.try_acquire():
            return None
        try:
            store = Store(self._path, self._clock)
            if store.seed == self.seed:
                store.cursor = self._cursor  # what came meanwhile is still to be read
            self._store, self.seed, self.trouble = store, store.seed, ""
            self._resumed()
        except (sqlite3.Error, OSError) as error:
            self._break(explain(error, self._path))
        except TidewireError as error:
            self._break(str(error))
        finally:
            self._turnstile.release()
        return self._store

    def _failed(self, writes: Sequence[Write], error: BaseException, *, is_certain: bool) -> list[Answer]:
        reason = explain(error, self._path)
        return [(write, _publish_error(reason, is_certain=is_certain)) for write in writes]

    def _refuse(self, orders: Sequence[Subscribing]) -> None:
        """Answer what cannot be done while the store is broken."""
        answers: list[Answer] = []
        for order in orders:
            if order.future is None:
                self._carried.discard(order.channel)
            else:
                answers.append((order, StoreUnavailable(self.trouble)))
        if self._store is None:
            writes = self._mailbox.take(_BATCH_COUNT, _BATCH_BYTES)
            answers.extend((write, _publish_error(self.trouble, is_certain=True)) for write in writes)
        self._hand_over((), answers)


def _publish_error(reason: str, *, is_certain: bool) -> TidewireError:
    if is_certain:
        return NotPublished(f"not published: {reason}")
    return PublishUnconfirmed(f"not confirmed: {reason}; publish it again with the same key")
