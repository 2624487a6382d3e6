"""Notices that an ASGI server has been told to exit, for responses without an end.

A server that exits waits for its responses, and ASGI has no event that asks an application to end one: stock uvicorn
waits for ever. Here the signals that end a server call the watchers, after the server's own handler.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from tidewire.support.per_loop import PerLoop

__all__ = ("ServerExit",)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ServerExit(PerLoop):
    """Calls callbacks when the process of an event loop is told to exit, where its loop runs in the main thread."""

    __slots__ = ("_is_exiting", "_is_installed", "_watching")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._watching: set[Callable[[], None]] = set()
        self._is_exiting = self._is_installed = False

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back once when the server is told to exit; in the next turn if it has been."""
        if self._is_exiting:
            self._loop.call_soon(callback)
            return
        self._watching.add(callback)
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

    def _exit(self) -> None:
        self._is_exiting = True
        watching, self._watching = self._watching, set()
        for callback in watching:
            callback()
