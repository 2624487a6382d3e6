"""The processes of a store, each with a datagram socket in the store's folder.

An empty datagram wakes a process: there may be something new. A lost one costs only time, because every process also
looks by itself now and then.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ("Peers",)

#: The longest path that fits a unix socket address everywhere (108 bytes on Linux, 104 elsewhere).
_LONGEST = 100
#: Nanoseconds after which a folder's time of change is told from the next one.
_SETTLED = 1_000_000_000
#: Bytes of the largest datagram, and of all that others have not taken: a frozen process must not use them up.
_LARGEST, _UNTAKEN = 262_144, 1_048_576


class Peers:
    """This process's datagram socket in the store's folder, and the sockets of the others with the same suffix.

    Where the file system has no sockets, `fileno` is -1 and nobody reaches this process.
    """

    def __init__(self, folder: Path, *, suffix: str = ".sock") -> None:
        self._folder = folder
        self._suffix = suffix
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}{suffix}"
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._changed = -1
        self._others: list[str] = []
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            os.close(self._descriptor)
            raise
        self._socket.setblocking(False)
        #: Takes datagrams of any size, and costs memory only for those that come: one for each would be asked of the
        #: system, and given back.
        self._received = memoryview(mmap.mmap(-1, _LARGEST))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNTAKEN)
        self._is_bound = True
        try:
            self._socket.bind(self._address(self.name))
        except OSError:
            self._is_bound = False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when another process calls, or -1."""
        return self._socket.fileno() if self._is_bound else -1

    def receive(self) -> bytes | None:
        """Take one datagram that has come; None when there is none."""
        try:
            size = self._socket.recv_into(self._received)
        except OSError:
            return None
        return self._received[:size].tobytes()

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
        for name in self.others():
            self.send(name, b"")

    def send(self, name: str, datagram: bytes) -> bool:
        """Send to another process; False when it has so many waiting that it can be sent no more."""
        try:
            self._socket.sendto(datagram, self._address(name))
        except BlockingIOError:
            return False
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(OSError):  # its process is dead
                os.unlink(self._folder / name)
        except OSError:
            pass
        return True

    def others(self) -> Sequence[str]:
        """Return the names of the other processes' sockets."""
        with contextlib.suppress(OSError):
            changed = os.fstat(self._descriptor).st_mtime_ns
            if changed != self._changed:
                names = os.listdir(self._folder)
                self._others = [name for name in names if name.endswith(self._suffix) and name != self.name]
                # A folder's time has steps: one that has just changed may change again within the same step.
                self._changed = changed if abs(time.time_ns() - changed) > _SETTLED else -1
        return self._others

    def _address(self, name: str) -> str:
        path = str(self._folder / name)
        if len(os.fsencode(path)) > _LONGEST and sys.platform == "linux":
            return f"/proc/self/fd/{self._descriptor}/{name}"
        return path

    def close(self) -> None:
        """Close the socket: nobody reaches this process any more."""
        self._socket.close()
        os.close(self._descriptor)
        if self._is_bound:
            with contextlib.suppress(OSError):
                os.unlink(self._folder / self.name)
