"""A link over any ASGI server: a bounded outbox and one writer task, and one reader task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tidewire.batch import Batch
from tidewire.errors import GONE, STALLED, Disconnect
from tidewire.links.base import Link, Listener
from tidewire.options import Limits

__all__ = ("AsgiLink",)

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: Unsent bytes at which the link counts as paused, as in the transports of asyncio.
_HIGH_WATER = 64 * 1024


class AsgiLink(Link):
    """Carries one accepted WebSocket of an ASGI server (ASGI specification, WebSocket).

    The server sends one message at a time and answers each `send` when it could take it; one that it does not take
    within `stalled_seconds` ends the link.
    """

    __slots__ = (
        "_can_read",
        "_closing",
        "_drained",
        "_limits",
        "_listener",
        "_outbox",
        "_outbox_bytes",
        "_receive",
        "_send",
        "_tasks",
        "_work",
        "is_closed",
        "paused",
    )

    deflate = False

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._listener: Listener | None = None
        self._outbox: deque[tuple[Any, int]] = deque()
        self._outbox_bytes = 0
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._can_read = asyncio.Event()
        self._can_read.set()
        self._closing: dict[str, Any] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.paused = False
        self.is_closed = False

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]

    async def hold(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Wait for the end of both tasks, after `close` or `abort`."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def write(self, batch: Batch) -> None:
        if self.is_closed or self._closing is not None:
            return
        self._outbox.extend(zip(batch.asgi, [len(message.data) for message in batch.messages], strict=True))
        self._outbox_bytes += batch.size
        if self._outbox_bytes > _HIGH_WATER and not self.paused:
            self.paused = True
            self._drained.clear()
        self._work.set()

    def backlog(self) -> tuple[int, int]:
        return self._outbox_bytes, len(self._outbox)

    async def wait_drained(self) -> None:
        await self._drained.wait()

    def pause_reading(self) -> None:
        self._can_read.clear()

    def resume_reading(self) -> None:
        self._can_read.set()

    def close(self, code: int, reason: str = "") -> None:
        if self.is_closed or self._closing is not None:
            return
        self._closing = {"type": "websocket.close", "code": code, "reason": reason}
        self._can_read.set()
        self._work.set()

    def abort(self) -> None:
        self._end(GONE, clean=False)

    async def _read(self) -> None:
        try:
            while not self.is_closed:
                await self._can_read.wait()
                event = await self._receive()
                if event["type"] == "websocket.disconnect":
                    code = event.get("code") or 1005
                    reason = event.get("reason") or ""
                    self._end(Disconnect(code, reason), clean=code not in (1005, 1006) or self._closing is not None)
                    return
                message = event.get("text")
                if message is None:
                    message = event.get("bytes") or b""
                if self._closing is None and self._listener is not None:
                    self._listener.message_received(message)
        except Exception:
            self._end(GONE, clean=False)

    async def _write(self) -> None:
        try:
            while not self.is_closed:
                await self._work.wait()
                self._work.clear()
                while self._outbox and not self.is_closed:
                    await self._send_one(self._outbox[0][0])
                    self._sent()
                if self._closing is not None and not self.is_closed:
                    async with asyncio.timeout(self._limits.stalled_seconds):
                        await self._send(self._closing)
                    return
        except TimeoutError:
            self._end(STALLED, clean=False)
        except Exception:
            self._end(GONE, clean=False)

    async def _send_one(self, event: Any) -> None:
        async with asyncio.timeout(self._limits.stalled_seconds):
            await self._send(event)

    def _sent(self) -> None:
        self._outbox_bytes -= self._outbox.popleft()[1]
        if self.paused and self._outbox_bytes <= _HIGH_WATER // 4:
            self.paused = False
            self._drained.set()
            if self._listener is not None:
                self._listener.drained()

    def _end(self, disconnect: Disconnect, *, clean: bool) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.paused = False
        self._outbox.clear()
        self._outbox_bytes = 0
        self._drained.set()
        self._can_read.set()
        self._work.set()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        if self._listener is not None:
            self._listener.closed(disconnect, clean=clean)
