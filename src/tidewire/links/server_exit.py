"""Notices that an ASGI server has been told to exit, for responses without an end.

A server that exits waits for its responses, and ASGI has no event that asks an application to end one: stock uvicorn
waits for ever. Here the signals that end a server call the watchers, after the server's own handler. A worker of
hypercorn gets none, and waits for its clients: for ever from Python 3.12 on (pgjones/hypercorn#308), before that for
3 s, after which it cuts them off. There, a process that listens no more is about to exit. granian ends WebSockets
without a close frame (emmett-framework/granian#796).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from tidewire.links.tcp_socket import sockets
from tidewire.support.per_loop import PerLoop

__all__ = ("ServerExit", "leaves_websockets_open")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds between two looks at the sockets that listen.
_LOOK_SECONDS = 1.0


def leaves_websockets_open() -> bool:
    """Return whether the server closes no WebSocket when it exits: it waits for its clients, or cuts them off."""
    return "granian" in sys.modules or _gets_no_signal()


def _gets_no_signal() -> bool:
    return "hypercorn" in sys.modules


class ServerExit(PerLoop):
    """Calls callbacks when the process of an event loop is told to exit, where its loop runs in the main thread."""

    __slots__ = ("_is_exiting", "_is_installed", "_listening", "_look", "_watching")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._watching: set[Callable[[], None]] = set()
        self._is_exiting = self._is_installed = False
        self._listening: list[tuple[int, int]] = []
        self._look: asyncio.TimerHandle | None = None

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back once when the server is told to exit; in the next turn if it has been."""
        if self._is_exiting:
            self._loop.call_soon(callback)
            return
        self._watching.add(callback)
        if self._look is None and _gets_no_signal():
            self._listening = _listening()
            self._look = self._loop.call_later(_LOOK_SECONDS, self._look_at_sockets)
        if not self._is_installed and threading.current_thread() is threading.main_thread():
            self._is_installed = True
            for number in _SIGNALS:
                self._chain(number, signal.getsignal(number))

    def unwatch(self, callback: Callable[[], None]) -> None:
        """Do not call back any more."""
        self._watching.discard(callback)

    def _chain(self, number: signal.Signals, before: Any) -> None:
        """Install a handler behind the server's; a signal that has none, or is ignored, stays as it is."""
        if not callable(before) or before is signal.default_int_handler:
            return

        def handle(received: int, frame: FrameType | None) -> None:
            before(received, frame)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._exit)

        signal.signal(number, handle)

    def _look_at_sockets(self) -> None:
        self._look = None
        if self._listening and not any(map(_is_open, self._listening)):
            self._exit()
        elif self._watching:
            self._look = self._loop.call_later(_LOOK_SECONDS, self._look_at_sockets)

    def _exit(self) -> None:
        self._is_exiting = True
        watching, self._watching = self._watching, set()
        for callback in watching:
            callback()


def _listening() -> list[tuple[int, int]]:
    """Return the sockets of this process that listen, by their descriptors and inodes; none where /proc is not."""
    found = []
    for number, one in sockets():
        with contextlib.suppress(OSError):
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append((number, os.fstat(number).st_ino))
    return found


def _is_open(found: tuple[int, int]) -> bool:
    number, inode = found
    try:
        return os.fstat(number).st_ino == inode
    except OSError:
        return False
