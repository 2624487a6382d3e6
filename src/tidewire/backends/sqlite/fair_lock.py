"""The write lock of the processes that share a store, handed over fairly.

With a bare `flock`, the process that releases it takes it again before a waiter has woken. So there are two locks: a
process that wants `main` first takes `next`, and releases it when it has `main`. The process that has just released
`main` then finds `next` taken by the waiter.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ("FairLock",)

#: Seconds after which a waiter passes by `next`: its holder may be a frozen process.
_BYPASS = 0.25


class FairLock:
    """A lock between processes that is tried, never waited in; the kernel frees it when its holder dies.

    One thread uses an instance. After a failed `try_acquire` it tries again soon, or calls `withdraw`.
    """

    def __init__(self, folder: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = _open(folder / f"{name}-next.lock")
        try:
            self._main = _open(folder / f"{name}.lock")
        except OSError:
            os.close(self._next)
            raise
        self._is_next = False
        self._waiting_since: float | None = None

    @property
    def is_waiting(self) -> bool:
        """The last try failed and was not withdrawn."""
        return self._waiting_since is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is this process's turn; return whether it was taken."""
        if not self._is_next:
            self._is_next = _try_lock(self._next)
        if (self._is_next or self._waited() > _BYPASS) and _try_lock(self._main):
            self.withdraw()
            return True
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        return False

    def _waited(self) -> float:
        return 0.0 if self._waiting_since is None else self._clock() - self._waiting_since

    def withdraw(self) -> None:
        """Stop waiting, so that another process may be the next."""
        self._waiting_since = None
        if self._is_next:
            self._is_next = False
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def release(self) -> None:
        """Release the lock; harmless when it is not held."""
        fcntl.flock(self._main, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release everything."""
        for descriptor in (self._main, self._next):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
