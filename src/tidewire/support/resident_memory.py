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
    """Ten sizes of the allocator (mallinfo2(3)); two of them say what is in use, in mapped blocks and others."""

    _fields_ = [
        ("_before", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),
        ("_between", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),
        ("_behind", ctypes.c_size_t * 2),
    ]


class MemoryReturn:
    """Makes the allocator (glibc) return freed memory, most of which it would keep after a burst.

    Large blocks go back when they are freed. The rest is measured every few seconds, and if it is much, returned in
    another thread, because that takes some milliseconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: The resident bytes that nobody had allocated, when they were fewest since some were returned last: code, and
        #: what cannot be returned.
        self._least = 0
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
        """Give back the memory that was freed since the last time, if it is much; return whether it was.

        The allocator itself cannot tell it: among its free bytes are those that it has returned.
        """
        unused = self._unused()
        self._least = min(self._least, unused)
        if unused <= self._least + _MUCH:
            return False
        self._trim(0)
        self._least = self._unused()
        return True

    def _unused(self) -> int:
        info, (resident, shared) = self._tell(), _sizes()
        return resident - shared - int(info.uordblks + info.hblkhd)


def _resident() -> int:
    return _sizes()[0]


def _sizes() -> tuple[int, int]:
    """Return the resident bytes of this process, and those of them that are of files or shared."""
    try:
        resident, shared = map(int, _STATM.read_bytes().split()[1:3])
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return resident * page, shared * page
