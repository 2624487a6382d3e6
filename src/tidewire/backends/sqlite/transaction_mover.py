"""Moves publications of applications' own transactions from their files to the store.

Each row is published with a key of its own, which the store remembers until the row is gone: however a process ends
between the two, the row is published once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tidewire.backends.sqlite.database import SQL, derived_epoch
from tidewire.backends.sqlite.folder import make_file
from tidewire.backends.sqlite.moved_request import REMEMBERED, MovedRequest
from tidewire.errors import PublishError
from tidewire.messages import Format, Position, PublishRequest
from tidewire.retention import Retention
from tidewire.support.log_limit import LogLimit
from tidewire.support.sqlite_files import identity

__all__ = ("TransactionMover",)

logger = logging.getLogger("tidewire")

#: Seconds between two looks into a file: at first after something was written there, at last, and at any time.
_SOON, _LATER, _IDLE = 0.005, 0.1, 1.0
#: Seconds for which a transaction is expected to commit soon.
_EXPECTED = 10.0
#: Rows that are moved at once, and their bytes: far fewer than may wait for the store, which others publish to as well.
_BATCH, _BATCH_BYTES = 500, 4 * 1_048_576
#: Seconds that a delete waits for a transaction of the application.
_BUSY_SECONDS = 1.0

#: A line of the list that names the store: it has an earlier name, too, where its seed has changed.
_STORE = re.compile(rb'^\{"store":"(\w+)"\}$', re.MULTILINE)
#: Publishes, or forgets a key.
Submit = Callable[[PublishRequest], asyncio.Future[Position]]


class _Row(msgspec.Struct, frozen=True, gc=False):
    """A publication in a transaction table, and its row."""

    id: int
    request: PublishRequest
    #: The key by which the store remembers the row.
    key: str


class TransactionMover:
    """Looks into the files of applications; one task. The files are remembered beside the store, for after a crash."""

    def __init__(self, path: Path, seed: Callable[[], str], publish: Submit, forget: Submit) -> None:
        self._list = path.with_name(f"{path.name}-outboxes")
        self._like = path
        self._publish = publish
        self._forget = forget
        self._seed = seed
        #: The store's names in the tables of applications, where another hub may have its rows.
        self._names: set[str] = set()
        #: Files in which rows of an earlier version, which have no name, were looked for.
        self._searched: set[Path] = set()
        self._known: dict[Path, tuple[int, int] | None] = {}
        self._read: tuple[int, int] | None = None
        self._expected = 0.0
        self._wake = asyncio.Event()
        self._troubles = LogLimit()
        self._task: asyncio.Task[None] | None = None
        #: Held during a look, so that a close leaves none half done.
        self._looking = asyncio.Lock()

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tidewire-transactions")

    async def aclose(self) -> None:
        """Move the waiting publications, and end."""
        task, self._task = self._task, None
        if task is not None:
            async with self._looking:
                task.cancel()
                await asyncio.wait([task])
            with contextlib.suppress(Exception):
                await self._look()

    async def expect(self, file: Path) -> str:
        """Look into a file soon; it is remembered before anything is written there.

        Returns the name of the store. Raises OSError.
        """
        # from what is in the store itself: a store that is moved without its list keeps its name
        name = derived_epoch(self._seed(), "transactions")
        if file not in self._known or name not in self._names:
            await asyncio.to_thread(self._remember, file, name)
            self._learn()
            self._known.setdefault(file, None)
        self._expected = asyncio.get_running_loop().time() + _EXPECTED
        self._wake.set()
        return name

    def _remember(self, file: Path, name: str) -> None:
        make_file(self._list, like=self._like)
        lines = [msgspec.json.encode(value) + b"\n" for value in ({"store": name}, str(file))]
        descriptor = os.open(self._list, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            found = os.pread(descriptor, 1 << 20, 0)
            os.write(descriptor, b"".join(line for line in lines if line not in found))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _learn(self) -> None:
        """Read which files there are, if another process has found one, and the names of the store."""
        with contextlib.suppress(OSError):
            stat = self._list.stat()
            if self._read != (stat.st_mtime_ns, stat.st_size):
                self._read = (stat.st_mtime_ns, stat.st_size)
                found = self._list.read_bytes()
                self._names.update(map(bytes.decode, _STORE.findall(found)))
                for line in found.splitlines():
                    with contextlib.suppress(msgspec.MsgspecError):
                        self._known.setdefault(Path(msgspec.json.decode(line, type=str)), None)

    async def _run(self) -> None:
        pause = _SOON
        while True:
            async with self._looking:
                due = await self._look()
            pause = due if due < _IDLE else min(pause * 1.5 + 0.001, _LATER)
            is_expected = asyncio.get_running_loop().time() < self._expected
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if is_expected else due):
                    await self._wake.wait()
                    pause = _SOON
                    self._wake.clear()
                    await asyncio.sleep(_SOON)

    async def _look(self) -> float:
        """Move the publications of all transaction tables; return the seconds after which to look again."""
        self._learn()
        return min([await self._look_into(file) for file in tuple(self._known)], default=_IDLE)

    async def _look_into(self, file: Path) -> float:
        """Move a batch of one file; where that fails, the other files are moved all the same."""
        try:
            return await self._move(file)
        except (OSError, PublishError, sqlite3.Error) as error:
            more = self._troubles.due()
            if more is not None:
                logger.warning("publications of transactions in %s cannot be moved now: %s%s", file, error, more)
        except Exception:
            logger.exception("publications of transactions in %s cannot be moved now", file)
        return _IDLE

    async def _move(self, file: Path) -> float:
        """Move a batch of one file, unless another process does; return the seconds after which to look again."""
        with self._locked(file) as is_mine:
            if not is_mine:
                return _IDLE
            rows, has_more = await asyncio.to_thread(_rows, file, self._names, is_first=file not in self._searched)
            if not has_more:
                self._searched.add(file)
            if not rows:
                return _IDLE
            results = await _answers(self._publish, [row.request for row in rows])
            kept = [row for row, result in zip(rows, results, strict=False) if not isinstance(result, BaseException)]
            await asyncio.to_thread(_remove, file, kept)
            await _answers(self._forget, [PublishRequest(row.request.channel, b"", key=row.key) for row in kept])
            failure = next((result for result in results if isinstance(result, BaseException)), None)
            if failure is not None:
                raise failure
            if len(results) < len(rows):
                return _LATER
            return 0.0 if has_more else _SOON

    @contextlib.contextmanager
    def _locked(self, file: Path) -> Iterator[bool]:
        """Hold the lock by which one process moves at a time; it is the list's, and free when the process ends."""
        try:
            descriptor = os.open(self._list, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)


async def _answers(submit: Submit, requests: Iterable[PublishRequest]) -> list[Position | BaseException]:
    """Submit requests, as far as there is room for them among all that wait, and return their answers."""
    answers: list[asyncio.Future[Position]] = []
    with contextlib.suppress(PublishError):
        for request in requests:
            answers.append(submit(request))
    return await asyncio.gather(*answers, return_exceptions=True)


def _rows(file: Path, names: set[str], *, is_first: bool) -> tuple[list[_Row], bool]:
    """Return the oldest rows of a store in a transaction table, and whether there are more.

    A file that is gone, or has no table, has no rows.
    """
    values = {"names": msgspec.json.encode(sorted(names)).decode(), "is_first": is_first, "count": _BATCH}
    if identity(file) is None:
        return [], False
    with contextlib.closing(_connect(file)) as connection:
        try:
            return _taken(connection.execute(SQL["transaction_rows"], values))
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return [], False
            raise


def _taken(found: Iterable[tuple[Any, ...]]) -> tuple[list[_Row], bool]:
    rows: list[_Row] = []
    size = 0
    for values in found:
        row = _row(values)
        rows.append(row)
        size += len(row.request.data) + len(row.request.meta)
        if len(rows) == _BATCH or size >= _BATCH_BYTES:
            return rows, True
    return rows, False


def _row(values: tuple[Any, ...]) -> _Row:
    """Return a row as a request; the columns are those of `transaction_rows`."""
    number, token, channel, format, data, key, key_age, meta, keep_size, keep_age = values
    retention = None if keep_size is None or keep_age is None else Retention(keep_size, keep_age)
    own = f"outbox:{token}"
    parts = (channel, data, Format(format), key or own, meta, retention, key_age if key else REMEMBERED)
    return _Row(number, MovedRequest(*parts, own) if key else PublishRequest(*parts), own)


def _remove(file: Path, rows: list[_Row]) -> None:
    if rows:
        with contextlib.closing(_connect(file)) as connection, connection:
            connection.executemany(SQL["transaction_remove"], [(row.id,) for row in rows])


def _connect(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
