"""Ends the block of an endpoint that only pushes, when its client has left: nothing else would tell it."""

from __future__ import annotations

import asyncio

from tidewire.engine.connection import Connection
from tidewire.protocols.close_codes import SHUTDOWN

__all__ = ("EndOfPushing",)


class EndOfPushing:
    """Cancels the task of a block that has not asked for a message within some seconds.

    These are for a block that is about to ask. It is cancelled at once when the server stops, and where a message has
    waited for so long before its client counted as gone.
    """

    __slots__ = ("_connection", "_is_cancelled", "_task", "_timer")

    def __init__(self, connection: Connection, task: asyncio.Task[object], seconds: float) -> None:
        self._connection = connection
        self._task = task
        self._is_cancelled = False
        is_stopping = connection.disconnect is not None and connection.disconnect.code == SHUTDOWN.code
        delay = 0.0 if is_stopping or connection.has_messages else seconds
        self._timer = asyncio.get_running_loop().call_later(delay, self._cancel)

    def _cancel(self) -> None:
        if not self._connection.receives:
            self._is_cancelled = True
            self._task.cancel()

    def leave(self) -> bool:
        """Return whether the block was cancelled here, and by nobody else, when it has ended."""
        self._timer.cancel()
        return self._is_cancelled and self._task.uncancel() == 0
