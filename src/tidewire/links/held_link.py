"""A link whose client can be cut off or frozen on purpose: it stands before the client's own while a fault lasts.

A link has nothing of this until then (engine/connection.py puts it in), and a playground alone does that.
"""

from __future__ import annotations

import asyncio
from collections import deque

from tidewire.errors import Disconnect
from tidewire.limits import Limits
from tidewire.links.base import LOST, Link, Listener
from tidewire.links.bytes_ahead import BytesAhead
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import STALLED
from tidewire.support.counters import count_limit

__all__ = ("HeldLink",)

#: Unsent bytes at which a link counts as paused, as in asyncio's transports.
_HIGH_WATER = 64 * 1024
#: Seconds for a client that takes nothing, after our close.
_CLOSE_SECONDS = 5.0


class HeldLink(Link):
    """Holds all messages, as a connection does whose other end takes nothing.

    To the engine it is a link whose buffers in the operating system are full: paused above the high-water mark,
    let go when no byte was taken for `stalled_seconds`. A client that `is_cut` is not read either, and hears nothing,
    not even a close frame, until `abort`: its server goes on as if it were there. `release` gives a frozen
    client all that waits, in order; from then on everything is passed on.
    """

    def __init__(self, link: Link, listener: Listener, limits: Limits, *, is_cut: bool) -> None:
        self.link = link
        self.is_cut = is_cut
        self.deflate = link.deflate
        self.paused = link.paused
        self.is_closed = link.is_closed
        self._listener = listener
        self._limits = limits
        self._held: deque[Batch] = deque()
        self._held_bytes = self._held_messages = 0
        self._is_over = False
        self._closing: tuple[int, str] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        if is_cut:
            link.stop_pings()
            link.pause_reading()

    def release(self) -> None:
        """End the fault: write the waiting messages, then pass everything on. Harmless when it has ended."""
        if self._is_over:
            return
        self._finish()
        while self._held:
            self.link.write(self._held.popleft())
        if self._closing is not None:
            self.link.close(*self._closing)
            return
        was_paused, self.paused = self.paused, self.link.paused
        if was_paused and not self.paused:
            self._listener.drained()

    def abort(self) -> None:
        self._finish()
        self._held.clear()
        self.is_closed = True
        self.link.abort()

    def _finish(self) -> None:
        self._is_over = True
        self._drained.set()
        if self._deadline is not None:
            self._deadline.cancel()

    def _let_go(self, disconnect: Disconnect) -> None:
        """End the connection for the engine; a client that is cut off does not notice yet."""
        self.is_closed = True
        self._held.clear()
        self._drained.set()
        self._listener.closed(disconnect, clean=False)
        if not self.is_cut:
            self.link.abort()

    def _stalled(self) -> None:
        count_limit("stalled_seconds")
        self._let_go(STALLED)

    def _let_go_in(self, seconds: float, disconnect: Disconnect | None = None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        work = self._stalled if disconnect is None else lambda: self._let_go(disconnect)
        self._deadline = loop.call_later(seconds, work)

    # The link.

    def listen(self, listener: Listener) -> None:
        self.link.listen(listener)

    def uncork(self) -> None:
        self.link.uncork()

    def stop_pings(self) -> None:
        self.link.stop_pings()

    async def keep_open(self) -> None:
        await self.link.keep_open()

    def write(self, batch: Batch) -> None:
        if self._is_over:
            self.link.write(batch)
        elif not self.is_closed:
            self._held.append(batch)
            self._held_bytes += batch.size
            self._held_messages += len(batch)
            if self._held_bytes > _HIGH_WATER and not self.paused:
                self.paused = True
                self._let_go_in(self._limits.stalled_seconds)

    def backlog(self) -> tuple[int, int]:
        size, messages = self.link.backlog()
        if self._is_over:
            return size, messages
        return size + self._held_bytes, messages + self._held_messages

    def bytes_ahead(self) -> BytesAhead | None:
        return self.link.bytes_ahead() if self._is_over else None

    async def wait_drained(self) -> None:
        if self.paused and not self._is_over:
            await self._drained.wait()
        await self.link.wait_drained()

    def pause_reading(self) -> None:
        self.link.pause_reading()

    def resume_reading(self) -> None:
        if self._is_over or not self.is_cut:
            self.link.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        if self._is_over:
            self.link.close(code, reason)
        elif not self.is_closed:
            self.is_closed = True
            self._closing = (code, reason)
            self._let_go_in(_CLOSE_SECONDS, LOST)
