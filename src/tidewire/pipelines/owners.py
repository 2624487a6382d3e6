"""The processes that share a folder of runs: which of them are alive, and how to wake them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from tidewire.backends.sqlite.peers import Peers

__all__ = ("Owners",)

_SUFFIX = ".lock"


class Owners:
    """This process as an owner of runs. It holds a file lock, which the kernel releases however the process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._lock = -1
        self._peers: Peers | None = None

    def open(self, woken: Callable[[], None]) -> None:
        """Take the lock; `woken` is called on the event loop when another process calls `wake`. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another user's
            self._folder.chmod(0o700)  # a name in it decides which runs others take over
        draft = self._folder / f".{self.name}"
        self._lock = _open(draft)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(self._folder / f"{self.name}{_SUFFIX}")  # locked before others can see it
        peers = self._peers = Peers(self._folder)

        def called() -> None:
            if peers.drain():
                woken()

        if peers.fileno() >= 0:
            asyncio.get_running_loop().add_reader(peers.fileno(), called)

    def close(self) -> None:
        """Release the lock; harmless when it was never taken."""
        peers, self._peers = self._peers, None
        if peers is not None:
            if peers.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(peers.fileno())
            peers.close()
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._folder / f"{self.name}{_SUFFIX}")
            os.close(self._lock)
            self._lock = -1

    def wake(self) -> None:
        """Wake every other process."""
        if self._peers is not None:
            self._peers.wake()

    def known(self) -> set[str]:
        """Return all owners that were not forgotten; none while the folder cannot be read."""
        try:
            return {name.removesuffix(_SUFFIX) for name in os.listdir(self._folder) if name.endswith(_SUFFIX)}
        except OSError:
            return set()

    def is_dead(self, owner: str) -> bool:
        """Return whether the process of an owner has ended; False while that is unknown."""
        if owner == self.name:
            return False
        path = self._folder / f"{owner}{_SUFFIX}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:  # too many files are open, perhaps
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def forget(self, owner: str) -> None:
        """Remove the lock file of a dead owner."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / f"{owner}{_SUFFIX}")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
