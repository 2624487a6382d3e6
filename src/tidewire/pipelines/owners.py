"""Which processes share a folder of runs, which of them live, and a call that wakes them."""

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
    """This process as an owner of runs: its life is a lock that the kernel frees when it dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._lock = -1
        self._peers: Peers | None = None

    def open(self, woken: Callable[[], None]) -> None:
        """Begin to live; `woken` is called on the event loop when another process calls. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{self.name}"
        self._lock = _open(draft)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(self._folder / f"{self.name}{_SUFFIX}")  # seen by others, it is locked already
        peers = self._peers = Peers(self._folder)

        def called() -> None:
            if peers.drain():
                woken()

        if peers.fileno() >= 0:
            asyncio.get_running_loop().add_reader(peers.fileno(), called)

    def close(self) -> None:
        """Be dead for the others; harmless when it was never opened."""
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
        """Call every other process."""
        if self._peers is not None:
            self._peers.wake()

    def known(self) -> set[str]:
        """Return all owners that have not been buried; none while the folder cannot be read."""
        try:
            return {name.removesuffix(_SUFFIX) for name in os.listdir(self._folder) if name.endswith(_SUFFIX)}
        except OSError:
            return set()

    def is_dead(self, owner: str) -> bool:
        """Say whether the process of an owner has ended; no while that cannot be found out."""
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

    def bury(self, owner: str) -> None:
        """Remove what a dead owner has left."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / f"{owner}{_SUFFIX}")


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
