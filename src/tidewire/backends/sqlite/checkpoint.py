"""Moves what is committed from the write-ahead log into the database (sqlite.org/wal.html), beside the writer.

A passive checkpoint on a thread of its own moves nearly all of it while the writer goes on. The log can only begin anew
when nothing is left to move, so the writer moves the little rest itself, between two commits.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from pathlib import Path

from tidewire.backends.sqlite.store import connect

__all__ = ("Checkpointer",)

logger = logging.getLogger("tidewire")

#: Seconds between two checkpoints.
_INTERVAL = 1.0
#: Pages of the log at which it should begin anew.
_LONG = 1_000


class Checkpointer:
    """The thread that moves; the writer's thread calls everything else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted = threading.Event()
        self._is_closed = False
        self._last = 0.0
        self._has_rest = False
        self._thread = threading.Thread(target=self._run, name="tidewire-sqlite-checkpoint", daemon=True)
        self._thread.start()

    def committed(self, writer: sqlite3.Connection) -> None:
        """Take note of a commit; the writer holds the write lock, and moves the rest if there is one."""
        if self._has_rest:
            self._has_rest = False
            with contextlib.suppress(sqlite3.Error):
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        now = time.monotonic()
        if now - self._last >= _INTERVAL:
            self._last = now
            self._wanted.set()

    def close(self) -> None:
        """Wait for the checkpoint under way, and end."""
        self._is_closed = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while self._wanted.wait() and not self._is_closed:
            self._wanted.clear()
            try:
                connection = connection or connect(self._path)
                _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._has_rest = pages >= _LONG
            except sqlite3.Error as error:
                logger.debug("a checkpoint of %s has to be repeated: %s", self._path, error)
                if connection is not None:
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()
