"""Waiting until a test's application has nothing more to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import anyio.to_thread

from tidewire.engine.connection import Connection

__all__ = ("Idleness",)

#: Turns of the loop in a row in which nothing must happen, and the most turns of one check.
_QUIET, _TURNS = 30, 20_000
#: Short sleeps of one `wait`: about a second, and more on a busy machine.
_NAPS, _NAP_SECONDS = 100, 0.01


class Idleness:
    """Counts events, and waits until there are none.

    A handler works from the moment at which it takes a message until it asks for the next one. A handler that has never
    asked for a message, because it only sends, is not waited for.
    """

    def __init__(self, connections: Callable[[], Iterable[Connection]]) -> None:
        self._connections = connections
        self._happened = 0
        self._seen_waiting: set[str] = set()
        #: A handler was still working when the last wait gave up.
        self.is_stuck = False

    def happened(self) -> None:
        """Count an event."""
        self._happened += 1

    async def wait_quiet(self) -> None:
        """Wait until the event loop has nothing to do immediately."""
        quiet, seen = 0, self._happened
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            quiet, seen = (quiet + 1, seen) if self._happened == seen else (0, self._happened)
            if quiet >= _QUIET:
                return

    async def wait(self) -> None:
        """Wait until no handler works either; a handler that still works after about a second counts as waiting."""
        for _ in range(_NAPS):
            await self.wait_quiet()
            self.is_stuck = self.is_stuck and self._is_working()
            if self.is_stuck or not self._is_working():
                return
            await asyncio.sleep(_NAP_SECONDS)
        self.is_stuck = True

    def working(self) -> set[str]:
        """Return the ids of the connections whose handlers work."""
        found = set()
        for connection in self._connections():
            if connection.is_awaited:
                self._seen_waiting.add(connection.id)
            elif connection.has_messages or connection.id in self._seen_waiting:
                found.add(connection.id)
        return found

    def _is_working(self) -> bool:
        is_in_thread = anyio.to_thread.current_default_thread_limiter().borrowed_tokens > 0
        return bool(self.working()) or is_in_thread
