"""An open WebSocket connection on a transport: the fast link's writing half, its pauses, its end and its heartbeat.

What is written is framed already. `links/reader.py` adds the reading half, `links/uvicorn.py` the opening handshake.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from random import random
from typing import Any, ClassVar, cast

from websockets.exceptions import ProtocolError
from websockets.extensions.base import Extension
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol as Core
from websockets.protocol import Side, State

from tidewire.errors import INTERNAL_ERROR, NO_PONG, STALLED, ConfigurationError, Disconnect
from tidewire.links.base import LOST, Link, Listener
from tidewire.links.handshake import WIRE_LOGGER
from tidewire.options import Limits
from tidewire.protocols.batch import Batch
from tidewire.support.counters import count_limit
from tidewire.support.wheel import Wheel

__all__ = ("BY_HANDSHAKE", "WireLink")

logger = logging.getLogger("uvicorn.error")

_HIGH_WATER, _LOW_WATER = 65_536, 16_384
_PING = b"\x89\x00"
#: Why reading is paused: by the layer above, by our own full write buffer, by a handshake that has no answer yet.
_BY_APPLICATION, _BY_WRITER, BY_HANDSHAKE = 1, 2, 4
#: Seconds between a failure (its close frame was sent) and the abort.
_LINGER = 1.0
#: Seconds between looks at a peer that takes nothing.
_LOOK = 1.0


class WireLink(asyncio.Protocol, Link):
    """A link that is the transport's protocol; `open` begins it. It costs no timer, task or queue while it is idle."""

    __slots__ = (
        "_closing",
        "_control_time",
        "_core",
        "_discarded",
        "_end_due",
        "_ended",
        "_fragments",
        "_in_read",
        "_listener",
        "_loop",
        "_pauses",
        "_ping_due",
        "_pong_due",
        "_stall",
        "_unread",
        "_wheel",
        "_writable",
        "deflate",
        "is_closed",
        "notch",
        "paused",
        "transport",
    )

    limits: ClassVar[Limits] = Limits()
    #: Seconds for the peer's answer to our close frame.
    close_seconds: ClassVar[float] = 5.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheel = Wheel.of(loop)
        self._core: Core | None = None
        self._listener: Listener | None = None
        self._fragments: list[Frame] | None = None
        self._unread = b""
        self._pauses = self._discarded = 0
        self._in_read = False
        self._writable: asyncio.Event | None = None
        self._stall: _Stall | None = None
        self._closing: Disconnect | None = None
        self._ended: tuple[Disconnect, bool] | None = None
        self._control_time = self._ping_due = self._pong_due = self._end_due = 0.0
        self.notch = 0
        self.deflate = self.paused = self.is_closed = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    def open(self, max_size: int, extensions: Sequence[Extension], early: bytes) -> None:
        """Begin, behind the handshake's answer; `early` (what the client sent before it) is read in the next turn."""
        # A fresh core: the one of the handshake would keep the request for as long as the connection lasts.
        self._core = core = Core(Side.SERVER, max_size=max_size, logger=WIRE_LOGGER)
        core.extensions = list(extensions)
        self.deflate = bool(extensions)
        self._unread = early
        self._pauses &= ~BY_HANDSHAKE
        if early:
            self._loop.call_soon(self._read_on)
        interval = self.limits.ping_seconds
        if interval > 0:
            self._ping_due = self._loop.time() + random() * interval
            self._schedule()

    def told_closed(self, disconnect: Disconnect) -> None:
        """Hear that nothing can be sent any more, before a listener does; to be overridden."""

    @abstractmethod
    def _read_on(self) -> None:
        """Read what was left unread when reading paused."""

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wheel.leave(self)
        if self._core is not None:
            # A core and its parser hold each other: left alone they would wait for the garbage collector.
            self._core.parser.close()
        self._stall = self._core = None
        self._unread = b""
        self._tell_closed(self._closing or LOST, clean=False)
        self.paused = False

    def pause_writing(self) -> None:
        self.paused = True
        self._pause(_BY_WRITER)
        self._stall = _Stall(self.transport.get_write_buffer_size(), self._loop.time())
        if not self._end_due:
            self._wheel.ride(self, min(_LOOK, self.limits.stalled_seconds))

    def resume_writing(self) -> None:
        if not self.paused:
            return
        self.paused = False
        if self._stall is not None:
            self._stall = None
            self._schedule()
        self._unpause(_BY_WRITER)
        self._release()
        if self._listener is not None and not self.is_closed:
            self._guard(self._listener.drained)

    def eof_received(self) -> None:
        if self._ended is None:
            self._tell_closed(self._closing or LOST, clean=False)
            self._end(self.close_seconds)

    # The link.

    def listen(self, listener: Listener) -> None:
        if self._listener is not None:
            raise ConfigurationError("this link has a listener already; a connection has one reader")
        if self._ended is not None:
            self._loop.call_soon(lambda ended: listener.closed(ended[0], clean=ended[1]), self._ended)
            return
        self._listener = listener
        self.resume_reading()

    def quiet(self) -> None:
        self._ping_due = self._pong_due = 0.0

    def write(self, batch: Batch) -> None:
        if self.is_closed:
            return
        stall = self._stall
        if stall is not None:
            stall.bytes += len(batch.joined)
            stall.messages += len(batch)
        self.transport.write(batch.joined)

    def backlog(self) -> tuple[int, int]:
        """Return bytes and messages; messages are those written since the link was last below its high-water mark."""
        return self.transport.get_write_buffer_size(), 0 if self._stall is None else self._stall.messages

    async def wait_drained(self) -> None:
        while self.paused and not self.is_closed:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def pause_reading(self) -> None:
        self._pause(_BY_APPLICATION)

    def resume_reading(self) -> None:
        self._unpause(_BY_APPLICATION)

    def _pause(self, reason: int) -> None:
        if self.is_closed:
            return
        self._pauses |= reason
        self.transport.pause_reading()

    def _unpause(self, reason: int) -> None:
        if not self._pauses & reason:
            return
        self._pauses &= ~reason
        if self._pauses:
            return
        if self._pong_due:
            self._pong_due = self._loop.time() + self.limits.pong_seconds
        if self._in_read:
            return
        if self._unread:
            self._loop.call_soon(self._read_on)
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; raises ConfigurationError for a code that cannot be sent (RFC 6455, 7.4)."""
        self._close(Disconnect(code, reason))

    def abort(self) -> None:
        self._closing = self._closing or LOST
        self.is_closed = True
        self.transport.abort()

    # Ending.

    def _close(self, disconnect: Disconnect) -> None:
        core = self._core
        # Not open: the peer's close, or its fault, is parsed already and about to be taken.
        if self.is_closed or core is None or core.state is not State.OPEN:
            return
        try:
            core.send_close(disconnect.code, _short(disconnect.reason))
        except ProtocolError:
            raise ConfigurationError(
                f"close code {disconnect.code} cannot be sent; write 1000 to 1014 or 3000 to 4999"
            ) from None
        self._closing = disconnect
        self._write_last(b"".join(core.data_to_send()))
        self.is_closed = True
        self._fragments = None
        self._release()
        self.told_closed(disconnect)
        self._end_due = self._loop.time() + self.close_seconds
        self._schedule()
        self._unpause(self._pauses)

    def _fail(self, disconnect: Disconnect, limit: str | None = None) -> None:
        """End for a fault of the peer: close frame, then nothing more is read from it."""
        if limit is not None:
            count_limit(limit)
        if self._closing is None:
            # Not by the core, which may have parsed the peer's own close behind the fault.
            close = Close(disconnect.code, _short(disconnect.reason))
            self._write_last(Frame(Opcode.CLOSE, close.serialize()).serialize(mask=False))
        self._tell_closed(self._closing or disconnect, clean=False)
        self._linger()

    def _write_last(self, output: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(output)

    def _linger(self) -> None:
        """Discard for a moment what the peer still sends; closing at once would reset it before it reads our close."""
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._end_due = self._loop.time() + _LINGER
        self._schedule()
        self._unpause(self._pauses)

    def _end(self, seconds: float) -> None:
        """Close the transport behind what it still holds, and abort it when that takes too long."""
        self.transport.close()
        self._end_due = self._loop.time() + seconds
        self._schedule()

    def _tell_closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        self.is_closed = True
        if self._ended is not None:
            return
        self._ended = (disconnect, clean)
        self._fragments = None
        self._unread = b""
        self._release()
        self.told_closed(disconnect)
        listener, self._listener = self._listener, None
        if listener is not None:
            self._guard(listener.closed, disconnect, clean=clean)

    def _release(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def _guard(self, callback: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            callback(*arguments, **options)
        except Exception:
            logger.exception("exception in a listener; its connection is closed")
            self._close(INTERNAL_ERROR)

    # The heartbeat.

    def _schedule(self) -> None:
        seconds = self._seconds(self._loop.time())
        if seconds is not None:
            self._wheel.ride(self, seconds)

    def _seconds(self, now: float) -> float | None:
        if self._end_due:
            return self._end_due - now
        if self._stall is not None:
            return min(_LOOK, self.limits.stalled_seconds)
        if not self._ping_due:
            return None
        return (min(self._pong_due, self._ping_due) if self._pong_due else self._ping_due) - now

    def turn(self, now: float) -> float | None:
        """Do what is due: abort, judge a stall, end for a missing pong, or ping."""
        if self._end_due:
            if now >= self._end_due:
                self.transport.abort()
                return None
        elif self._stall is not None:
            if self._stall.lasts(self.transport.get_write_buffer_size(), now) >= self.limits.stalled_seconds:
                count_limit("stalled_seconds")
                self._tell_closed(STALLED, clean=False)
                self.transport.abort()
                return None
        else:
            self._beat(now)
        return self._seconds(now)

    def _beat(self, now: float) -> None:
        if self._pong_due and self._pauses:
            # The answer may have come: we do not read it.
            self._pong_due = now + self.limits.pong_seconds
        elif self._pong_due and now >= self._pong_due:
            self._fail(NO_PONG, "pong_seconds")
            return
        if self._ping_due and now >= self._ping_due:
            # While reading is paused too: a socket that is broken shows it only when it is written to.
            self.transport.write(_PING)
            self._pong_due = self._pong_due or now + self.limits.pong_seconds
            self._ping_due = now + self.limits.ping_seconds


class _Stall:
    """What is known of a peer since it takes less than is written."""

    __slots__ = ("_left", "_since", "bytes", "messages")

    def __init__(self, left: int, now: float) -> None:
        self._left = left
        self._since = now
        #: Written since the last look; messages: since the link is paused.
        self.bytes = self.messages = 0

    def lasts(self, left: int, now: float) -> float:
        """Return the seconds for which the peer has not accepted a byte."""
        if left < self._left + self.bytes:
            self._since = now
        self._left, self.bytes = left, 0
        return now - self._since


def _short(reason: str) -> str:
    """Cut a reason to what a close frame holds (123 bytes, RFC 6455 section 5.5)."""
    return reason if len(reason) <= 41 else reason.encode()[:123].decode(errors="ignore")
