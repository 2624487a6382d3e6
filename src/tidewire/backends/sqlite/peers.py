"""Wakes the other processes of a store: an empty datagram says that there may be something new.

A lost one costs only time, because every process also looks by itself now and then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import time
from pathlib import Path

__all__ = ("Peers",)

_SUFFIX = ".sock"
#: The longest path that fits a unix socket address everywhere (108 bytes on Linux, 104 elsewhere).
_LONGEST = 100
#: Nanoseconds after which a folder's time of change is told from the next one.
_SETTLED = 1_000_000_000


class Peers:
    """This process's datagram socket in the store's folder, and the sockets of the others.

    Where the file system has no sockets, `fileno` is -1 and nobody wakes this process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changed = -1
        self._others: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._is_bound = True
        try:
            self._socket.bind(self._address(self._name))
        except OSError:
            self._is_bound = False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when another process calls, or -1."""
        return self._socket.fileno() if self._is_bound else -1

    def drain(self) -> bool:
        """Take every call that has come; True when there was one."""
        called = False
        while self._is_bound:
            try:
                self._socket.recv(1)
            except OSError:
                break
            called = True
        return called

    def wake(self) -> None:
        """Call every other process."""
        for name in self._find():
            try:
                self._socket.sendto(b"", self._address(name))
            except BlockingIOError:
                continue  # it has calls enough waiting
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(OSError):  # its process is dead
                    os.unlink(self._folder / name)
            except OSError:
                continue

    def _find(self) -> list[str]:
        with contextlib.suppress(OSError):
            changed = os.fstat(self._descriptor).st_mtime_ns
            if changed != self._changed:
                names = os.listdir(self._folder)
                self._others = [name for name in names if name.endswith(_SUFFIX) and name != self._name]
                # A folder's time has steps: one that has just changed may change again within the same step.
                self._changed = changed if abs(time.time_ns() - changed) > _SETTLED else -1
        return self._others

    def _address(self, name: str) -> str:
        path = str(self._folder / name)
        if len(os.fsencode(path)) > _LONGEST and sys.platform == "linux":
            return f"/proc/self/fd/{self._descriptor}/{name}"
        return path

    def close(self) -> None:
        """Close the socket: nobody wakes this process any more."""
        self._socket.close()
        os.close(self._descriptor)
        if self._is_bound:
            with contextlib.suppress(OSError):
                os.unlink(self._folder / self._name)
