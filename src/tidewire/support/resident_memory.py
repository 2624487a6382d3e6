"""The memory of this process, read from the kernel often enough to judge newcomers by it; and given back to it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from pathlib import Path

__all__ = ("MemoryReturn", "ResidentMemory")

#: Seconds for which one reading is used, so that many handshakes at once do not cause as many readings.
_READING_SECONDS = 1.0
_STATM = Path("/proc/self/statm")
#: glibc's name for the size from which a block is mapped by itself (mallopt(3)), and that size.
_M_MMAP_THRESHOLD, _LARGE = -3, 262_144
#: Seconds between two looks for memory that may be given back, and the bytes that are worth it.
_TRIM_SECONDS, _MUCH = 5.0, 4_194_304


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


class _Mallinfo(ctypes.Structure):
    """The ten sizes that the allocator tells of itself (mallinfo2(3))."""

    _fields_ = [("before", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


class MemoryReturn:
    """Makes the allocator (glibc) return freed memory, most of which it would keep after a burst.

    Large blocks go back when they are freed. The rest is measured every few seconds, and if it is much, returned in
    another thread, because that takes some milliseconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: The bytes that were free when some were returned last, or fewer since: these are no longer resident.
        self._returned = 0
        try:
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
            self._trim, self._tell = library.malloc_trim, library.mallinfo2
        except (OSError, AttributeError):
            return  # another allocator
        self._tell.restype = _Mallinfo
        loop.call_later(_TRIM_SECONDS, self._look)

    def _look(self) -> None:
        self._loop.run_in_executor(None, self.give_back)
        self._loop.call_later(_TRIM_SECONDS, self._look)

    def give_back(self) -> bool:
        """Give back the memory that was freed since the last time, if it is much; return whether it was."""
        free = self._tell().fordblks  # those among them that were returned are still counted
        self._returned = min(self._returned, free)
        if free <= self._returned + _MUCH:
            return False
        self._trim(0)
        self._returned = free
        return True


def _resident() -> int:
    try:
        pages = _STATM.read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
