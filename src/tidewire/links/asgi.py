"""A link over any ASGI server: a bounded outbox and one writer task, and one reader task."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tidewire.errors import Disconnect
from tidewire.limits import Limits
from tidewire.links.base import Link, Listener
from tidewire.links.server_exit import ServerExit, leaves_websockets_open
from tidewire.links.server_pings import ServerPings
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import GONE, INTERNAL_ERROR, NO_PONG, SHUTDOWN, STALLED, close_reason
from tidewire.support.counters import count_limit

__all__ = ("CLOSE_SECONDS", "AsgiLink")

logger = logging.getLogger("tidewire")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: Unsent bytes at which the link counts as paused, and those at which it no longer does, as in asyncio's transports.
_HIGH_WATER, _LOW_WATER = 64 * 1024, 16 * 1024
#: Seconds for the messages in front of our close, and for the client's answer to it.
CLOSE_SECONDS = 5.0


class AsgiLink(Link):
    """One WebSocket of an ASGI server (ASGI specification, WebSocket).

    `accept` is the event that accepts it, unless it is accepted already; it is held back as `cork` says.

    The server takes one message at a time. A `send` that does not return within `stalled_seconds` ends the link.
    Reading pauses while the link does, so that a client cannot ask for more than it takes.
    """

    __slots__ = (
        "_accept",
        "_can_read",
        "_closing",
        "_deadline",
        "_drained",
        "_is_accepted",
        "_is_reading_paused",
        "_is_released",
        "_limits",
        "_listener",
        "_outbox",
        "_outbox_bytes",
        "_pings",
        "_receive",
        "_send",
        "_sent_messages",
        "_tasks",
        "_work",
        "is_closed",
        "paused",
    )

    deflate = False

    def __init__(
        self,
        receive: Receive,
        send: Send,
        limits: Limits,
        accept: Any = None,
        pings: ServerPings | None = None,
    ) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._listener: Listener | None = None
        self._outbox: deque[tuple[Any, int]] = deque()
        self._outbox_bytes = self._sent_messages = 0
        self._pings = pings
        self._accept = accept
        self._is_accepted = asyncio.Event()
        self._work = asyncio.Event()
        if accept is None:
            self._is_accepted.set()
        self._drained = asyncio.Event()
        self._drained.set()
        self._can_read = asyncio.Event()
        self._can_read.set()
        self._is_reading_paused = False
        self._closing: Disconnect | None = None
        self._is_released = False
        self._deadline: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.paused = False
        self.is_closed = False

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        if self._pings is not None:
            self._pings.start(self)
        loop = asyncio.get_running_loop()
        if leaves_websockets_open():
            ServerExit.of(loop).watch(self._exit)
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]

    @property
    def sent(self) -> int | None:
        """How many messages were handed to the server; None while one is on its way, or the link is not open."""
        is_busy = self._outbox or self._closing is not None or self.is_closed or not self._is_accepted.is_set()
        return None if is_busy else self._sent_messages

    def stop_pings(self) -> None:
        if self._pings is not None:
            self._pings.stop()
            self._pings = None

    def no_pong(self) -> None:
        """End: the client has not answered a ping."""
        count_limit("pong_seconds")
        self._end(self._closing or NO_PONG, clean=False)

    def uncork(self) -> None:
        self._work.set()

    async def keep_open(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self, patience: float = CLOSE_SECONDS) -> None:
        """Wait for the end of both tasks, after `close` or `abort`; abort after some seconds, or when cancelled."""
        if not self._tasks:
            return
        try:
            await asyncio.wait(self._tasks, timeout=patience)
        finally:
            self.abort()
        await asyncio.wait(self._tasks)

    async def release(self, patience: float) -> None:
        """Send the queued messages, within some seconds, then end without a close: the application sends that."""
        self._is_released = True
        self._work.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        self._end(GONE, clean=False)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def write(self, batch: Batch) -> None:
        if self.is_closed or self._closing is not None:
            return
        self._outbox.extend(zip(batch.asgi, [len(message.data) for message in batch.messages], strict=True))
        self._outbox_bytes += batch.size
        if self._outbox_bytes > _HIGH_WATER and not self.paused:
            self.paused = True
            self._drained.clear()
            self._can_read.clear()
        self._work.set()

    def backlog(self) -> tuple[int, int]:
        return self._outbox_bytes, len(self._outbox)

    async def wait_drained(self) -> None:
        await self._drained.wait()

    def pause_reading(self) -> None:
        self._is_reading_paused = True
        self._can_read.clear()

    def resume_reading(self) -> None:
        self._is_reading_paused = False
        self._read_on()

    def _read_on(self) -> None:
        if self.is_closed or self._closing is not None or not (self.paused or self._is_reading_paused):
            self._can_read.set()

    def close(self, code: int, reason: str = "") -> None:
        if self.is_closed or self._closing is not None:
            return
        self._closing = Disconnect(code, close_reason(reason))
        self._deadline = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)
        self._read_on()
        self._work.set()

    def abort(self) -> None:
        self._end(self._closing or GONE, clean=False)

    def _exit(self) -> None:
        self.close(SHUTDOWN.code, SHUTDOWN.reason)

    async def _read(self) -> None:
        try:
            await self._is_accepted.wait()
            while not self.is_closed:
                await self._can_read.wait()
                event = await self._receive()
                if event["type"] == "websocket.disconnect":
                    self._disconnected(event)
                    return
                message = event.get("text")
                if message is None:
                    message = event.get("bytes") or b""
                if self._closing is None and self._listener is not None:
                    self._guard(self._listener.message_received, message)
        except Exception:
            self._end(self._closing or GONE, clean=False)

    def _guard(self, callback: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            callback(*arguments, **options)
        except Exception:
            logger.exception("exception in a listener; its connection is closed")
            self.close(INTERNAL_ERROR.code, INTERNAL_ERROR.reason)

    def _disconnected(self, event: Any) -> None:
        """End as the server says: 1005 stands for a close frame without a code, 1006 for none at all."""
        code = event.get("code") or 1005
        theirs = Disconnect(code, event.get("reason") or "")
        self._end(self._closing or theirs, clean=code != 1006)

    async def _write(self) -> None:
        try:
            while not self.is_closed:
                await self._work.wait()
                self._work.clear()
                if self._accept is not None:
                    accept, self._accept = self._accept, None
                    await self._send_one(accept)
                    self._is_accepted.set()
                while self._outbox and not self.is_closed:
                    await self._send_one(self._outbox[0][0])
                    self._sent()
                if self._closing is not None and not self.is_closed:
                    await self._write_close(self._closing)
                    return
                if self._is_released:
                    return
        except TimeoutError:
            count_limit("stalled_seconds")
            self._end(self._closing or STALLED, clean=False)
        except Exception:
            self._end(self._closing or GONE, clean=False)

    async def _write_close(self, disconnect: Disconnect) -> None:
        """Send our close and wait for the client's. Some servers send ours only while nobody waits in `receive`."""
        reader = self._tasks[0]
        reader.cancel()
        await asyncio.wait([reader])
        if self.is_closed:
            return
        code, reason = disconnect.code, disconnect.reason
        await self._send_one({"type": "websocket.close", "code": code, "reason": reason})
        await self._read()

    async def _send_one(self, event: Any) -> None:
        async with asyncio.timeout(self._limits.stalled_seconds):
            await self._send(event)

    def _sent(self) -> None:
        if not self._outbox:  # the link has ended meanwhile
            return
        self._outbox_bytes -= self._outbox.popleft()[1]
        self._sent_messages += 1
        if self.paused and self._outbox_bytes <= _LOW_WATER:
            self.paused = False
            self._drained.set()
            self._read_on()
            if self._listener is not None:
                self._guard(self._listener.drained)

    def _end(self, disconnect: Disconnect, *, clean: bool) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        ServerExit.of(asyncio.get_running_loop()).unwatch(self._exit)
        if self._pings is not None:
            self._pings.stop()
        self.paused = False
        self._outbox.clear()
        self._outbox_bytes = 0
        self._drained.set()
        self._can_read.set()
        self._work.set()
        if self._deadline is not None:
            self._deadline.cancel()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            self._guard(listener.closed, disconnect, clean=clean)
