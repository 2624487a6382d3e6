"""Presence on one SQLite file beside the broker's: a thread of its own, one transaction for all that waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from tidewire.backends.base import JoinResult, Presence
from tidewire.backends.sqlite.fair_lock import FairLock
from tidewire.backends.sqlite.file_errors import explain, is_lasting, opening_error
from tidewire.backends.sqlite.folder import make_node_folder, node_folder
from tidewire.backends.sqlite.leases import Watch
from tidewire.backends.sqlite.presence_database import PresenceDatabase
from tidewire.errors import StoreUnavailable, TidewireError
from tidewire.messages import Announcement, Departure, Member

__all__ = ("SqlitePresence",)

logger = logging.getLogger("tidewire")

T = TypeVar("T")

#: Steps of one transaction.
_BATCH = 500
#: Seconds between looks at the other nodes.
_LOOK = 0.5
#: Seconds in which the write lock must be had, and between tries.
_PATIENCE = 2.0
_RETRY = 0.002


class _Step(Generic[T]):
    """One call on its way to the thread, and the future of its caller."""

    __slots__ = ("future", "run", "writes")

    def __init__(self, run: Callable[[PresenceDatabase], T], future: asyncio.Future[T], *, writes: bool) -> None:
        self.run = run
        self.future = future
        self.writes = writes


class SqlitePresence(Presence):
    """The members of channels, on all processes of one machine.

    A process is alive while the kernel holds its file lock and its lease counter moves; `lease` is how many seconds the
    counter may stand still. The members of a dead process are claimable `grace` seconds after its lock was found free,
    or half of that after its lease.
    """

    def __init__(self, path: Path, lease: float = 8.0, *, grace: float = 6.0) -> None:
        path = path.absolute()
        self._like = path
        self._folder = node_folder(path)
        self._path = path.with_name(f"{path.name}-presence")
        self._watch = Watch(lease, grace, longest_step=2 * _LOOK)
        self._steps: queue.SimpleQueue[_Step[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def start(self, node: str) -> None:
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(node, started), name="tidewire-sqlite-presence", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.shield(started)
        except TidewireError:
            await self._join_thread()
            raise

    async def aclose(self) -> None:
        if self._thread is None:
            return
        self._steps.put(None)
        await self._join_thread()

    async def _join_thread(self) -> None:
        thread, self._thread = self._thread, None
        await asyncio.shield(self._ended)
        if thread is not None:
            thread.join()

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        return await self._ask(lambda database: database.join(channel, member, announcement), writes=True)

    async def leave(self, channel: str, connection: str) -> bool:
        return await self._ask(lambda database: database.leave(channel, connection), writes=True)

    async def set_aside(self, channel: str, connection: str) -> None:
        await self._ask(lambda database: database.set_aside(channel, connection), writes=True)

    async def touch(self) -> bool:
        return await self._ask(lambda database: database.touch(), writes=True)

    async def members(self, channel: str) -> list[Member]:
        return await self._ask(lambda database: database.members(channel), writes=False)

    async def count(self, channel: str, user: str | None = None) -> int:
        return await self._ask(lambda database: database.count(channel, user), writes=False)

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        if not self._watch.departed and not self._watch.overdue:
            return ()
        return await self._ask(lambda database: database.claim(limit), writes=True)

    async def forget(self, departures: Sequence[Departure]) -> None:
        if departures:
            await self._ask(lambda database: database.forget(departures), writes=True)

    async def _ask(self, run: Callable[[PresenceDatabase], T], *, writes: bool) -> T:
        if self._thread is None:
            raise StoreUnavailable("presence is not open; use it between its start and its close")
        future: asyncio.Future[T] = self._loop.create_future()
        self._steps.put(_Step(run, future, writes=writes))  # type: ignore[arg-type]
        return await future

    # The thread.

    def _run(self, node: str, started: asyncio.Future[None]) -> None:
        database = PresenceDatabase(self._like, self._path, self._folder, node, self._watch)
        try:
            make_node_folder(self._like)
            self._lock = FairLock(self._folder, "presence")
            try:
                self._locked(database.open)
            except BaseException:
                self._lock.close()
                raise
        except TidewireError as error:
            self._call(_settle, [(started, error)])
        except Exception as error:  # the caller that opens the store must be told of any error
            self._call(_settle, [(started, opening_error(error, self._path))])
        else:
            self._call(_settle, [(started, None)])
            self._serve(database)
            with contextlib.suppress(sqlite3.Error, OSError, StoreUnavailable):  # the lock of this node is freed anyway
                self._locked(database.hide)
            database.close()
            self._lock.close()
        self._call(_settle, [(self._ended, None)])

    def _serve(self, database: PresenceDatabase) -> None:
        looked = 0.0
        is_closing = False
        while not is_closing:
            steps, is_closing = self._take()
            is_due = time.monotonic() - looked >= _LOOK
            try:
                if not database.is_open:
                    self._locked(database.open)
                if is_due:
                    looked = time.monotonic()
                    self._look(database)
                self._run_steps(database, steps)
            except (sqlite3.Error, OSError, TidewireError) as error:
                self._fail(database, error, steps)
            except Exception as error:
                logger.exception("presence of %s failed in a step, and goes on", self._path)
                self._fail(database, error, steps)

    def _take(self) -> tuple[list[_Step[object]], bool]:
        """Wait for steps, until the next look at most; also says whether this is the end."""
        steps: list[_Step[object]] = []
        try:
            step = self._steps.get(timeout=_LOOK)
            while step is not None:
                steps.append(step)
                if len(steps) == _BATCH:
                    break
                step = self._steps.get_nowait()
        except queue.Empty:
            return steps, False
        return steps, step is None

    def _run_steps(self, database: PresenceDatabase, steps: list[_Step[object]]) -> None:
        if not any(step.writes for step in steps):
            self._transact(database, steps, write=False)
        elif self._lock.try_acquire():
            self._transact(database, steps, write=True)
        else:  # reads do not wait for another process
            self._transact(database, [step for step in steps if not step.writes], write=False)
            self._acquire()
            self._transact(database, [step for step in steps if step.writes], write=True)

    def _transact(self, database: PresenceDatabase, steps: Sequence[_Step[object]], *, write: bool) -> None:
        """Run steps in one transaction, for writing with the lock held, which is free again when they are told."""
        if not steps:
            return
        try:
            database.begin(write=write)
            results = [(step.future, step.run(database)) for step in steps]
            database.commit()
        finally:
            if write:
                self._lock.release()
        self._call(_settle, results)

    def _look(self, database: PresenceDatabase) -> None:
        database.begin(write=False)
        database.look()
        database.commit()

    def _acquire(self) -> None:
        limit = time.monotonic() + _PATIENCE
        while not self._lock.try_acquire():
            if time.monotonic() > limit:
                self._lock.withdraw()
                raise StoreUnavailable(
                    f"another process has held the lock of {self._path} for {_PATIENCE:g} s; see if it hangs"
                )
            time.sleep(_RETRY)

    def _locked(self, run: Callable[[], None]) -> None:
        self._acquire()
        try:
            run()
        finally:
            self._lock.release()

    def _fail(self, database: PresenceDatabase, error: BaseException, steps: Sequence[_Step[object]]) -> None:
        """Answer the waiting steps; nobody is taken for dead because of observations before an outage."""
        database.rollback()
        self._watch.reset()
        if is_lasting(error) and not isinstance(error, TidewireError):
            database.disconnect()
        reason = str(error) if isinstance(error, TidewireError) else explain(error, self._path)
        self._call(_settle, [(step.future, StoreUnavailable(reason)) for step in steps])

    def _call(
        self, function: Callable[[Sequence[tuple[asyncio.Future[object], object]]], None], results: object
    ) -> None:
        try:
            self._loop.call_soon_threadsafe(function, results)  # type: ignore[arg-type]
        except RuntimeError:  # the loop has ended without `aclose`: nobody is left to tell
            self._steps.put(None)


def _settle(results: Sequence[tuple[asyncio.Future[object], object]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
