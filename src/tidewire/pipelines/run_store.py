"""The durable record of all runs: one SQLite file that several processes share, used from one thread of each."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from tidewire.backends.shared.statements import statements
from tidewire.backends.sqlite.disk_reserve import DiskReserve
from tidewire.backends.sqlite.file_errors import explain, is_full
from tidewire.errors import ConfigurationError, StoreUnavailable
from tidewire.pipelines.errors import QueueFull
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.runs import Run, RunStatus, StepStatus, View
from tidewire.support.sqlite_files import WalFile

__all__ = ("Attention", "Record", "RunStore")

T = TypeVar("T")

_BUSY_SECONDS = 10.0
_encode = msgspec.json.Encoder().encode
_decode_run = msgspec.json.Decoder(Run).decode
_decode_view = msgspec.json.Decoder(View).decode
_decode_paths = msgspec.json.Decoder(dict[str, str]).decode


class Record(msgspec.Struct, frozen=True):
    """The stored record of a run. `key` authorises progress reports of other processes, `definition` is JSON or b""."""

    run: Run
    view: View
    definition: bytes
    paths: dict[str, str]
    key: str
    owner: str
    status: RunStatus
    is_cancelled: bool


class Attention(msgspec.Struct, frozen=True):
    """The state of an owner's run: its position in the queue (0: none), and whether it may begin."""

    id: str
    status: RunStatus
    is_cancelled: bool
    position: int
    may_begin: bool


class NewRun(msgspec.Struct, frozen=True):
    """The stored values of a new run beside its state."""

    fingerprint: str
    key: str
    definition: bytes
    paths: dict[str, str]
    owner: str


def _first(queue: Sequence[tuple[str, str]], running: Counter[str], limits: PipelineLimits) -> set[str]:
    """Return the runs of the queue that may begin: in order, but no user gets more than their share of the places."""
    free = limits.concurrency - running.total()
    first: set[str] = set()
    for run, user in queue:
        if free <= 0:
            break
        if user and running[user] >= limits.running_of_user:
            continue
        running[user] += 1
        free -= 1
        first.add(run)
    return first


class RunStore:
    """Runs and their processes. Methods raise StoreUnavailable when the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sql = statements("tidewire.pipelines", "run_store.sql")
        self._thread = ThreadPoolExecutor(1, "tidewire-runs")
        self._file: WalFile | None = None
        self._reserve: DiskReserve | None = None

    async def open(self) -> None:
        """Open the file, and create it if necessary. Raises ConfigurationError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    async def aclose(self) -> None:
        """Close the file; harmless when it is closed."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    # Runs.

    async def add(self, run: Run, new: NewRun, limits: PipelineLimits, *, join: bool) -> Run:
        """Add a run to the queue, or return the one to join. Atomic over all processes. Raises QueueFull."""

        def work(db: sqlite3.Connection) -> Run:
            found = db.execute(self._sql["joinable"], (new.fingerprint,)).fetchone() if join else None
            if found:
                return _decode_run(found[0])
            waiting = self._check_queue(db, run.user, limits)
            added = msgspec.structs.replace(run, position=waiting + 1)
            turn = db.execute(self._sql["next_turn"]).fetchone()[0]
            state, view = _encode(added), _encode(View(added))
            what = (run.id, run.pipeline, run.sample, run.user, new.fingerprint, new.key, new.definition)
            db.execute(self._sql["insert"], (*what, _encode(new.paths), turn, new.owner, state, view))
            return added

        return await self._write(work, sync=True)

    async def record(self, run: str) -> Record | None:
        """Return the record of a run, or None."""
        row = await self._read(lambda db: db.execute(self._sql["get"], (run,)).fetchone())
        if row is None:
            return None
        state, view, definition, paths, key, owner, status, cancel = row
        status = RunStatus(status)
        return Record(
            _decode_run(state), _decode_view(view), definition, _decode_paths(paths), key, owner, status, bool(cancel)
        )

    async def runs(self, *, limit: int, **filters: str) -> list[Run]:
        """Return runs, the newest first; an empty filter matches all."""
        rows = await self._read(lambda db: db.execute(self._sql["list"], {**filters, "limit": limit}).fetchall())
        return [_decode_run(row[0]) for row in rows]

    async def search(self, text: str, limit: int, offset: int) -> tuple[int, list[Run]]:
        """Return the runs with a text in their id, pipeline, sample or user, and how many there are; newest first."""
        found = {"search": text.lower(), "limit": limit, "offset": offset}
        rows = await self._read(lambda db: db.execute(self._sql["search"], found).fetchall())
        return (rows[0][1] if rows else 0), [_decode_run(row[0]) for row in rows]

    async def expected(self, pipeline: str) -> Mapping[str, float]:
        """Return the average seconds of each step in the last finished runs."""
        rows = await self._read(lambda db: db.execute(self._sql["finished"], (pipeline,)).fetchall())
        took: dict[str, list[float]] = {}
        for row in rows:
            for step in _decode_run(row[0]).steps:
                if step.status is StepStatus.DONE and step.started and step.ended:
                    took.setdefault(step.name, []).append(max(step.ended - step.started, 0.0))
        return {name: round(sum(seconds) / len(seconds), 2) for name, seconds in took.items()}

    async def save(self, run: Run, view: View, *, sync: bool) -> None:
        """Store the state of a run and its view; with `sync` they survive a power cut."""
        values = (_encode(run), _encode(view), run.status.value, run.id)
        await self._write(lambda db: db.execute(self._sql["save"], values), sync=sync)

    async def remove(self, run: str) -> bool:
        """Delete a run; return False when it is queued or running."""

        def work(db: sqlite3.Connection) -> bool:
            is_removed = db.execute(self._sql["remove"], (run,)).rowcount > 0
            if is_removed:
                db.execute(self._sql["clear_all_processes"], (run,))
            return is_removed

        return await self._write(work)

    async def beyond(self, keep: int) -> list[tuple[str, str]]:
        """Return the ended runs beyond the newest `keep`, each with its user."""
        return await self._read(lambda db: db.execute(self._sql["beyond"], (keep,)).fetchall())

    # Owners.

    async def attend(self, owner: str, limits: PipelineLimits) -> list[Attention]:
        """Return the state of each run of an owner."""

        def work(db: sqlite3.Connection) -> list[Attention]:
            owned = db.execute(self._sql["owned"], (owner,)).fetchall()
            if not owned:
                return []
            queue = db.execute(self._sql["queue"]).fetchall()
            places = {run: place for place, (run, _) in enumerate(queue, 1)}
            first = _first(queue, Counter(dict(db.execute(self._sql["running"]).fetchall())), limits)
            return [
                Attention(run, RunStatus(status), bool(cancel), places.get(run, 0), run in first)
                for run, status, cancel, _ in owned
            ]

        return await self._read(work)

    async def begin(self, run: str, owner: str) -> bool:
        """Mark a run as running that `attend` allowed to begin; return False when it was cancelled. May be repeated.

        This needs no further check: all processes agree on the first runs of the queue that have a free place.
        """
        return await self._write(lambda db: db.execute(self._sql["begin"], (run, owner)).rowcount) > 0

    async def release(self, run: str, owner: str) -> None:
        """Remove the owner of a run that has ended and whose events are published."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(self._sql["release"], (run, owner))
            db.execute(self._sql["clear_progress"], (run,))

        await self._write(work, sync=True)

    async def cancel(self, run: str) -> bool:
        """Ask the owner of a run to cancel it; return False when it is neither queued nor running."""
        return await self._write(lambda db: db.execute(self._sql["cancel"], (run,)).rowcount) > 0

    async def resume(self, run: Run, owner: str, limits: PipelineLimits) -> bool:
        """Queue an ended run again for this owner; return False when it has not ended. Raises QueueFull."""

        def work(db: sqlite3.Connection) -> bool:
            if not run.status.is_active:
                self._check_queue(db, run.user, limits)
            turn = db.execute(self._sql["next_turn"]).fetchone()[0]
            return db.execute(self._sql["resume"], (owner, turn, run.id)).rowcount > 0

        return await self._write(work)

    def _check_queue(self, db: sqlite3.Connection, user: str, limits: PipelineLimits) -> int:
        """Return how many runs wait. Raises QueueFull when there is no place for one more of this user."""
        waiting, own = db.execute(self._sql["waiting"], (user,)).fetchone()
        if user and own >= limits.user_queue:
            raise QueueFull(f"{own} runs of yours wait already (limit user_queue); try again later", "user_queue")
        if waiting >= limits.queue:
            raise QueueFull(f"{waiting} runs wait already (limit queue); try again later", "queue")
        return int(waiting)

    async def owners(self) -> set[str]:
        """Return all owners of runs."""
        return {row[0] for row in await self._read(lambda db: db.execute(self._sql["owners"]).fetchall())}

    async def adopt(self, dead: str, owner: str) -> None:
        """Take over the runs of a dead owner; each run goes to one process only."""
        await self._write(lambda db: db.execute(self._sql["adopt"], (owner, dead)))

    async def add_progress(self, run: str, step: str, fraction: float, message: str) -> None:
        """Store progress for the owner of a run; only the newest of each step is kept."""
        await self._write(lambda db: db.execute(self._sql["add_progress"], (run, step, fraction, message)))

    async def take_progress(self, owner: str) -> list[tuple[str, str, float, str]]:
        """Return and remove the progress that was stored for an owner."""
        if not await self._read(lambda db: db.execute(self._sql["any_progress"]).fetchone()[0]):
            return []
        return await self._write(lambda db: db.execute(self._sql["take_progress"], (owner,)).fetchall())

    # Processes.

    async def set_processes(self, run: str, step: str, identities: Sequence[str]) -> None:
        """Record processes, so that they can be ended when their owner has died."""
        values = [(run, step, identity) for identity in identities]
        await self._write(lambda db: db.executemany(self._sql["set_process"], values))

    async def clear_processes(self, run: str, step: str = "") -> None:
        """Delete the records of ended processes, of a step or of a whole run."""
        if step:
            await self._write(lambda db: db.execute(self._sql["clear_processes"], (run, step)))
        else:
            await self._write(lambda db: db.execute(self._sql["clear_all_processes"], (run,)))

    async def processes(self, run: str) -> list[str]:
        """Return the identities of processes that are recorded as running."""
        return [row[0] for row in await self._read(lambda db: db.execute(self._sql["processes"], (run,)).fetchall())]

    # The thread.

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work, "BEGIN", False)

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, sync: bool = False) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._work, work, "BEGIN IMMEDIATE", sync)

    def _work(self, work: Callable[[sqlite3.Connection], T], begin: str, sync: bool) -> T:
        if self._file is None:
            raise StoreUnavailable("the runs are not open; write `async with pipelines:`")
        try:
            database = self._file.connection()
            # WAL mode survives the death of a process by itself; only a power cut needs FULL
            database.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            return self._transaction(database, work, begin)
        except (OSError, sqlite3.Error) as error:
            if is_full(error) and self._reserve is not None:
                self._reserve.give_up()  # so that the end of a run can still be stored
            raise StoreUnavailable(explain(error, self._path)) from error

    @staticmethod
    def _transaction(database: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        database.execute(begin)
        try:
            result = work(database)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        return result

    def _connect(self) -> None:
        file = WalFile(self._path, self._prepare, seconds=_BUSY_SECONDS)
        try:
            file.open()
            self._reserve = DiskReserve(self._path.parent)
            self._reserve.take()
        except (OSError, sqlite3.Error) as error:
            file.close()
            raise ConfigurationError(explain(error, self._path)) from None
        self._file = file

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.executescript(self._sql["schema"])

    def _disconnect(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
