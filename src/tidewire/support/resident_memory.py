"""The memory of this process, read from the kernel often enough to judge newcomers by it."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ("ResidentMemory",)

#: Seconds for which one reading is used, so that many handshakes at once do not cause as many readings.
_READING_SECONDS = 1.0
_STATM = Path("/proc/self/statm")


class ResidentMemory:
    """The resident memory of this process, at most a second old; 0 where the kernel does not tell it (not Linux)."""

    __slots__ = ("_bytes", "_due")

    def __init__(self) -> None:
        self._bytes = 0
        self._due = 0.0

    def read(self) -> int:
        """Return the resident bytes of this process."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _READING_SECONDS
            self._bytes = _resident()
        return self._bytes


def _resident() -> int:
    try:
        pages = _STATM.read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
