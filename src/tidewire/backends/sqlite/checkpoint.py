"""Moves commits from the write-ahead log into the database (sqlite.org/wal.html), beside the writer.

A passive checkpoint on a thread of its own moves nearly all of them while the writer goes on. The log can only begin
anew when nothing is left to move, so the writer moves the little rest itself, between two commits.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tidewire.backends.sqlite.database import connect

__all__ = ("Checkpointer",)

logger = logging.getLogger("tidewire")

#: Seconds between two checkpoints, when the log is short.
_INTERVAL = 1.0
#: The parts of the limit by which the log grows between two checkpoints, and above which it is to begin anew.
_GROWTH, _REST = 4, 8
#: Seconds for which the log may grow when somebody does not let it begin anew.
_BLOCKED = 5.0
#: How many times the limit a log has when readers are waited for longer, as they may overlap, and for how many
#: milliseconds: less than a publish waits. If that is in vain an operator is told, and the log may double.
_LONG, _PATIENCE = 4, 1_500
_PAGE = 4_096


class Checkpointer:
    """The thread that moves; the writer's thread calls everything else.

    The part that is not moved stays below `limit` bytes or little more: a database on a full disk has to grow by it.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._wanted = threading.Event()
        self._is_closed = False
        self._last = 0.0
        self._unmoved = 0
        #: The bytes that were not moved when the thread was woken last.
        self._woken_at = 0
        self._has_rest = False
        self._blocked_until = 0.0
        self._patient_at = _LONG * limit
        self._thread = threading.Thread(target=self._run, name="tidewire-sqlite-checkpoint", daemon=True)

    def start(self) -> None:
        """Begin the thread."""
        self._thread.start()

    def committed(self, writer: sqlite3.Connection, size: int) -> None:
        """Take note of a commit of about so many bytes; the writer holds the lock, and moves a rest if there is one."""
        self._unmoved += size
        now = time.monotonic()
        if (self._has_rest or self._unmoved > self._limit // 2) and now >= self._blocked_until:
            self._has_rest = False
            self._move_rest(writer)
            return
        if now - self._last >= _INTERVAL or self._unmoved - self._woken_at > self._limit // _GROWTH:
            self._last, self._woken_at = now, self._unmoved
            self._wanted.set()

    def _move_rest(self, writer: sqlite3.Connection) -> None:
        # RESTART waits for readers, so it is the last resort.
        mode = "PASSIVE" if self._unmoved < self._limit else "RESTART"
        is_patient = self._unmoved >= self._patient_at
        with contextlib.suppress(sqlite3.Error), _waiting(writer, _PATIENCE if is_patient else 0):
            is_busy, pages, moved = writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            if not is_busy and pages == moved:
                self._unmoved = self._woken_at = 0
                self._patient_at = _LONG * self._limit
            elif mode == "RESTART":
                if pages >= 0:  # a process that is frozen in a read: publishing matters more than the log's length
                    self._blocked_until = time.monotonic() + _BLOCKED
                # else a checkpoint is under way, for which SQLite does not wait: the next commit tries again
                if is_patient and pages >= 0:
                    self._patient_at = 2 * self._unmoved
                    self._warn()

    def _warn(self) -> None:
        logger.warning(
            "%s-wal has grown by %d MiB: another program hangs, or has a transaction open in which it reads; end that",
            self._path,
            self._unmoved >> 20,
        )

    def close(self) -> None:
        """Wait for the checkpoint under way, and end."""
        self._is_closed = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while self._wanted.wait() and not self._is_closed:
            self._wanted.clear()
            try:
                self._has_rest = self._move() * _PAGE > self._limit // _REST
            except sqlite3.Error as error:
                logger.debug("a checkpoint of %s has to be repeated: %s", self._path, error)

    def _move(self) -> int:
        """Move as much as possible, and return the pages of the log."""
        connection = connect(self._path)
        try:
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            return int(pages)
        finally:
            connection.close()


@contextlib.contextmanager
def _waiting(connection: sqlite3.Connection, milliseconds: int) -> Iterator[None]:
    """Wait longer for locks, unless it is for 0 ms."""
    if not milliseconds:
        yield
        return
    (before,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {before}")
