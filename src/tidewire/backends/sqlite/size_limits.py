"""Bounds the bytes of one channel's publications and of the store: the oldest are hidden, and trimming removes them.

A reader that wanted them is told that its history is not complete, as after a removal on request.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from tidewire.backends.shared.waiting import Write
from tidewire.backends.sqlite.database import SQL

__all__ = ("SizeLimits",)

#: The part of a channel's limit after whose growth its size is measured.
_PART = 4
#: Seconds of one transaction in which channels are measured: one at least, the others in later ones.
_MEASURING = 0.005
#: Seconds between two looks at the size of the store, and the most publications that are hidden then, unless more came.
_LOOK, _MOST = 0.25, 500
#: Channels whose growth is remembered.
_CHANNELS = 100_000


class SizeLimits:
    """Knows how much each channel has grown by this process; `reached` is called with the name of a limit."""

    def __init__(self, channel_bytes: int, store_bytes: int, reached: Callable[[str], None]) -> None:
        self._channel_bytes = channel_bytes
        self._store_bytes = store_bytes
        self._reached = reached
        self._grown: dict[str, int] = {}
        self._due: dict[str, None] = {}
        self._looked = 0.0
        self._written = 0

    def add(self, writes: Sequence[Write]) -> None:
        """Take note of publications of this process."""
        grown, part = self._grown, self._channel_bytes // _PART
        self._written += len(writes)
        if len(grown) >= _CHANNELS:
            grown.clear()
        for write in writes:
            request = write.request
            channel = request.channel
            size = grown[channel] = grown.get(channel, 0) + len(request.data) + len(request.meta)
            if size > part:
                self._due[channel] = None
                del grown[channel]

    @property
    def is_due(self) -> bool:
        """Some channels are to be measured."""
        return bool(self._due)

    def apply(self, connection: sqlite3.Connection) -> bool:
        """Hide publications beyond a limit, inside a writing transaction; return whether there were any."""
        is_found = False
        end = time.monotonic() + _MEASURING
        for name in tuple(self._due):
            del self._due[name]
            is_found = self._bound_channel(connection, name) or is_found
            if time.monotonic() >= end:
                break
        if time.monotonic() - self._looked >= _LOOK:
            self._looked = time.monotonic()
            is_found = self._bound_store(connection) or is_found
        return is_found

    def _bound_channel(self, connection: sqlite3.Connection, name: str) -> bool:
        excess = connection.execute(SQL["channel_bytes"], {"name": name}).fetchone()[0] - self._channel_bytes
        if excess <= 0:
            return False
        offset = 0
        with closing(connection.execute(SQL["sizes_of_oldest"], {"name": name})) as oldest:
            while excess > 0:
                offset, size = oldest.fetchone()
                excess -= size
        connection.execute(SQL["hide_by_name"], (offset, name))
        self._reached("channel_history_bytes")
        return True

    def _bound_store(self, connection: sqlite3.Connection) -> bool:
        written, self._written = self._written, 0
        excess = connection.execute(SQL["store_bytes"]).fetchone()[0] - self._store_bytes
        if excess <= 0:
            return False
        asked = {"most": max(_MOST, 2 * written), "excess": excess}
        oldest = connection.execute(SQL["oldest"], asked).fetchall()
        connection.executemany(SQL["hide_by_id"], oldest)
        if oldest:
            self._reached("store_history_bytes")
        return bool(oldest)
