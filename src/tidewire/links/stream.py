"""A link over the endless response of an HTTP request: lines, server-sent events, or delimited binary messages."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.errors import Disconnect, RateLimited
from tidewire.limits import Limits
from tidewire.links.base import Link, Listener
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import GONE, INTERNAL_ERROR, STALLED
from tidewire.support.counters import count_limit

__all__ = ("BINARY", "EVENTS", "FIELDS", "HEADERS", "LINES", "Framing", "StreamLink", "StreamServer")

logger = logging.getLogger("tidewire")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
#: Makes the last message of a stream of a close code and a reason.
LastMessage = Callable[[int, str], WireMessage]

#: Unsent bytes at which the link counts as paused, and those at which it no longer does; bytes of one `send`.
_HIGH_WATER, _LOW_WATER, _CHUNK = 64 * 1024, 16 * 1024, 64 * 1024
#: Seconds for the messages in front of our close.
CLOSE_SECONDS = 5.0
#: For caches and proxies: the response is not to be kept, nor collected before it is passed on.
HEADERS = ((b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no"))


class Framing(msgspec.Struct, frozen=True, gc=False):
    """The form of messages in a body: its media type, its beginning, and the bytes around each message.

    With `lines`, they stand around each line of a message.
    """

    media_type: str
    before: bytes = b""
    after: bytes = b""
    first: bytes = b""
    lines: bool = False

    def frame(self, batch: Batch) -> bytes:
        """Return a batch as it stands in the body; made once for all links with these delimiters."""
        return batch.delimited(self.before, self.after, lines=self.lines)


#: One JSON message a line.
LINES = Framing("application/x-ndjson", after=b"\n")
#: Server-sent events (HTML Living Standard section 9.2); the empty line makes proxies pass the headers on.
EVENTS = Framing("text/event-stream", before=b"data: ", after=b"\n\n", first=b"\r\n", lines=True)
#: The same for messages that contain their fields ("id: …\ndata: …").
FIELDS = Framing("text/event-stream", after=b"\n\n", first=b"\r\n")
#: Messages that contain their length.
BINARY = Framing("application/octet-stream")


class StreamServer(TypingProtocol):
    """The needs of an endless response beyond ASGI: the extension `tidewire.stream` of links/http.py."""

    #: Called when the server's drain begins.
    on_shutdown: Callable[[], None] | None

    def abort(self) -> None:
        """Cut the TCP connection."""


class StreamLink(Link):
    """One client of an endless HTTP response (ASGI specification, HTTP); the client's messages come by other requests.

    The response begins with the first write, or with `uncork`. All that is queued goes out together, in pieces of
    64 KiB; a piece that the server does not take within `stalled_seconds` ends the link. The body ends
    with `last_message`.
    """

    __slots__ = (
        "_abort",
        "_arriving",
        "_arriving_bytes",
        "_can_receive",
        "_closing",
        "_deadline",
        "_drained",
        "_framing",
        "_headers",
        "_last_message",
        "_limits",
        "_listener",
        "_outbox",
        "_outbox_bytes",
        "_outbox_messages",
        "_receive",
        "_receiving",
        "_send",
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
        framing: Framing,
        *,
        last_message: LastMessage,
        headers: Mapping[str, str] | None = None,
        server: StreamServer | None = None,
    ) -> None:
        self._receive = receive
        self._send = send
        self._limits = limits
        self._framing = framing
        self._last_message = last_message
        self._headers = headers or {}
        self._abort = server.abort if server is not None else None
        self._listener: Listener | None = None
        self._outbox: deque[tuple[bytes | memoryview, int]] = deque()
        self._outbox_bytes = self._outbox_messages = 0
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._can_receive = asyncio.Event()
        self._can_receive.set()
        self._receiving = asyncio.Lock()
        #: Calls that wait in `receive`, and the bytes of their messages.
        self._arriving = self._arriving_bytes = 0
        self._closing: Disconnect | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.paused = False
        self.is_closed = False

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def uncork(self) -> None:
        self._work.set()

    async def keep_open(self) -> None:
        """Write the response until it ends; the link has ended when this returns."""
        watcher = asyncio.get_running_loop().create_task(self._watch())
        try:
            await self._write()
        except TimeoutError:
            if not self.is_closed:
                count_limit("stalled_seconds")
            self._cut(self._closing or STALLED)
        except Exception:
            self._cut(self._closing or GONE)
        finally:
            self._end(self._closing or GONE, clean=False)
            watcher.cancel()
            await asyncio.wait([watcher])

    def write(self, batch: Batch) -> None:
        if self.is_closed or self._closing is not None:
            return
        data = self._framing.frame(batch)
        if len(data) <= _CHUNK:
            self._outbox.append((data, len(batch)))
        else:
            view = memoryview(data)
            pieces = [view[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
            self._outbox.extend((piece, 0) for piece in pieces[:-1])
            self._outbox.append((pieces[-1], len(batch)))
        self._outbox_bytes += len(data)
        self._outbox_messages += len(batch)
        if self._outbox_bytes > _HIGH_WATER and not self.paused:
            self.paused = True
            self._drained.clear()
        self._work.set()

    def backlog(self) -> tuple[int, int]:
        return self._outbox_bytes, self._outbox_messages

    async def wait_drained(self) -> None:
        await self._drained.wait()

    def pause_reading(self) -> None:
        self._can_receive.clear()

    def resume_reading(self) -> None:
        self._can_receive.set()

    async def receive(self, message: str | bytes) -> bool:
        """Handle a message that the client sent by another request, in the order of calls; return False after the end.

        Waits while reading is paused. Raises RateLimited when as many calls wait as a burst may have messages, or
        when this one would make more than `inbox_bytes` wait.
        """
        if self._arriving >= self._limits.burst:
            count_limit("burst")
            raise RateLimited(f"too many messages at once: {self._limits.burst} wait already; send fewer at a time")
        size = len(message)
        if self._arriving and self._arriving_bytes + size > self._limits.inbox_bytes:
            count_limit("inbox_bytes")
            raise RateLimited(
                f"too much at once: {self._arriving_bytes} bytes wait already; wait for their answers first"
            )
        self._arriving += 1
        self._arriving_bytes += size
        try:
            async with self._receiving:
                await self._can_receive.wait()
                if self.is_closed or self._closing is not None or self._listener is None:
                    return False
                self._guard(self._listener.message_received, message)
                return True
        finally:
            self._arriving -= 1
            self._arriving_bytes -= size

    def close(self, code: int, reason: str = "") -> None:
        if self.is_closed or self._closing is not None:
            return
        self._closing = Disconnect(code, reason)
        self._deadline = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)
        self._work.set()

    def abort(self) -> None:
        self._cut(self._closing or GONE)

    async def _watch(self) -> None:
        """Notice at once that the client has gone; the body of its request was read before."""
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:
            pass  # a server that cannot receive any more has lost its client as well
        self._end(self._closing or GONE, clean=False)

    async def _write(self) -> None:
        await self._work.wait()
        if self.is_closed:
            return
        headers = [(name.lower().encode(), value.encode()) for name, value in self._headers.items()]
        headers += (*HEADERS, (b"content-type", self._framing.media_type.encode()))
        await self._send_one({"type": "http.response.start", "status": 200, "headers": headers})
        # sent at once: some servers hold the headers back until there is a body
        await self._send_one({"type": "http.response.body", "body": self._framing.first, "more_body": True})
        while not self.is_closed:
            if self._outbox:
                await self._write_some()
            elif self._closing is not None:
                await self._write_end(self._closing)
            else:
                self._work.clear()
                await self._work.wait()

    async def _write_some(self) -> None:
        """Send queued messages, as many as one piece may hold; they count as unsent until the server has taken them."""
        pieces: list[bytes | memoryview] = []
        size = messages = 0
        for data, count in self._outbox:
            if pieces and size + len(data) > _CHUNK:
                break
            pieces.append(data)
            size += len(data)
            messages += count
        await self._send_one({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
        if self.is_closed:
            return
        for _ in pieces:
            self._outbox.popleft()
        self._outbox_bytes -= size
        self._outbox_messages -= messages
        if self.paused and self._outbox_bytes <= _LOW_WATER:
            self.paused = False
            self._drained.set()
            if self._listener is not None:
                self._guard(self._listener.drained)

    async def _write_end(self, disconnect: Disconnect) -> None:
        last = self._framing.frame(Batch([self._last_message(disconnect.code, disconnect.reason)]))
        await self._send_one({"type": "http.response.body", "body": last, "more_body": False})
        self._end(disconnect, clean=True)

    async def _send_one(self, event: Any) -> None:
        async with asyncio.timeout(self._limits.stalled_seconds):
            await self._send(event)

    def _guard(self, callback: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            callback(*arguments, **options)
        except Exception:
            logger.exception("exception in a listener; its connection is closed")
            self.close(INTERNAL_ERROR.code, INTERNAL_ERROR.reason)

    def _cut(self, disconnect: Disconnect) -> None:
        if not self.is_closed and self._abort is not None:
            self._abort()
        self._end(disconnect, clean=False)

    def _end(self, disconnect: Disconnect, *, clean: bool) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.paused = False
        self._outbox.clear()
        self._outbox_bytes = self._outbox_messages = 0
        for event in (self._drained, self._can_receive, self._work):
            event.set()
        if self._deadline is not None:
            self._deadline.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            self._guard(listener.closed, disconnect, clean=clean)
