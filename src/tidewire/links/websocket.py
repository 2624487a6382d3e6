"""A WebSocket on a transport, as a `Link`: a reader, a writer and deadlines, and how it ends.

Before this comes opening_handshake.py, which makes the link and opens it; after it a listener or the ASGI application.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import random
from typing import Any

from websockets.extensions.base import Extension

from tidewire.errors import ConfigurationError, Disconnect
from tidewire.limits import Limits
from tidewire.links.asgi_application import AsgiApplication, ClientGone, Opening
from tidewire.links.base import LOST, Link, Listener
from tidewire.links.bytes_ahead import BytesAhead
from tidewire.links.deadlines import Deadlines, Due
from tidewire.links.reader import BY_APPLICATION, BY_HANDSHAKE, BY_WRITER, Control, Fault, Opcode, Reader
from tidewire.links.writer import Writer, close_frame, control_frame
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch, frame
from tidewire.protocols.close_codes import INTERNAL_ERROR, NO_PONG, NORMAL, SHUTDOWN, STALLED
from tidewire.support.counters import count_limit
from tidewire.support.timer_wheel import TimerWheel

__all__ = ("WebSocketLink",)

logger = logging.getLogger("uvicorn.error")

#: Seconds between a failure (its close frame was sent) and the abort.
_LINGER = 1.0
#: Seconds between looks at a client that takes nothing.
_LOOK = 1.0


class WebSocketLink(Link):
    """One WebSocket, from its handshake on; `open` begins it. The transport's protocol passes its events on."""

    __slots__ = (
        "_application",
        "_close_seconds",
        "_closing",
        "_deadlines",
        "_ended",
        "_is_corked",
        "_is_held",
        "_limits",
        "_listener",
        "_loop",
        "_opening",
        "_reader",
        "_transport",
        "_writer",
        "deflate",
        "is_closed",
        "paused",
        "timer_slot",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        opening: Opening,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        close_seconds: float,
    ) -> None:
        self._transport = transport
        self._limits = limits
        self._loop = loop
        self._close_seconds = close_seconds
        self._opening: Opening | None = opening
        self._reader = Reader(transport, loop)
        self._writer = Writer(transport, loop)
        self._deadlines = Deadlines(limits)
        self._listener: Listener | None = None
        #: Receives messages while there is no listener, and the end.
        self._application: AsgiApplication | None = None
        self._is_held = self._is_corked = False
        self._closing: Disconnect | None = None
        self._ended: tuple[Disconnect, bool] | None = None
        self.timer_slot = 0
        self.deflate = self.paused = self.is_closed = False

    # The opening handshake.

    def open(self, answer: bytes, max_size: int, extensions: Sequence[Extension], early: bytes) -> None:
        """Send the handshake's answer and begin; `early` (sent by the client before it) is read in the next turn."""
        (self._writer.hold_answer if self._is_corked else self._transport.write)(answer)
        self._opening = None
        self._reader.open(self._handle, early, max_size, self._limits.fragments, extensions)
        self.deflate = bool(extensions)
        self._deadlines.start_pings(self._loop.time(), random())
        self._schedule()

    def refuse(self, answer: bytes, disconnect: Disconnect) -> None:
        """Send a refusing answer, and end."""
        self._transport.write(answer)
        self._closing = disconnect
        self._report_closed(disconnect, clean=False)
        self._end()

    def pause_handshake(self) -> None:
        """Read no more until the handshake has its answer."""
        self._reader.pause(BY_HANDSHAKE)

    def application_started(self, application: AsgiApplication) -> None:
        """Give messages to an ASGI application until a listener takes over, and report the end to it."""
        self._application = application

    def application_returned(self, *, failed: bool) -> None:
        """End the connection when its ASGI call has returned, unless a listener has it and it is held."""
        self._application = None
        if self._opening is not None:
            if not self.is_closed:
                self._opening.deny(500, (), b"Internal Server Error")
        elif failed:
            self._close(INTERNAL_ERROR)
        elif not self._is_held:
            self._close(NORMAL)

    def drain(self) -> None:
        """End the connection at some moment of the server's drain."""
        self._loop.call_later(random() * self._limits.drain_seconds, self._shut_down)

    def _shut_down(self) -> None:
        if self._listener is not None:  # which ends its connection itself
            self._guard(self._listener.shut_down)
        else:
            self._close(SHUTDOWN)

    # Events of the transport.

    def data_received(self, data: bytes) -> None:
        """Read the bytes that the client has sent."""
        if self._reader.feed(data):
            if self._deadlines.message_began(self._loop.time()):
                self._schedule()
        elif self._deadlines.rest:
            self._deadlines.message_ended()

    def connection_lost(self) -> None:
        """Report the end, unless it was reported."""
        TimerWheel.of(self._loop).cancel(self)
        self._opening = None
        self._report_closed(self._closing or LOST, clean=False)
        self._writer.resume()
        self.paused = False

    def eof_received(self) -> None:
        """End: the client sends nothing more."""
        if self._ended is None:
            self._report_closed(self._closing or LOST, clean=False)
            self._end()

    def pause_writing(self) -> None:
        """Watch a client that takes less than is written, and read nothing from it meanwhile."""
        self.paused = True
        if not self.is_closed:
            self._reader.pause(BY_WRITER)
        self._writer.pause(self._loop.time())
        self._schedule()

    def resume_writing(self) -> None:
        """Go on with a client that has taken enough."""
        if not self.paused:
            return
        self.paused = False
        self._writer.resume()
        self._schedule()
        self._resume_reading(BY_WRITER)
        if self._listener is not None and not self.is_closed:
            self._guard(self._listener.drained)

    # The link.

    def listen(self, listener: Listener) -> None:
        if self._listener is not None:
            raise ConfigurationError("this link has a listener already; a connection has one reader")
        if self._ended is not None:
            self._loop.call_soon(lambda ended: listener.closed(ended[0], clean=ended[1]), self._ended)
            return
        self._listener = listener
        self.resume_reading()
        for message in self._application.take() if self._application is not None else ():
            self._guard(listener.message_received, message)

    def cork(self) -> None:
        self._is_corked = True

    def uncork(self) -> None:
        if self._is_corked:
            self._is_corked = False
            self._writer.release_answer()

    def stop_pings(self) -> None:
        self._deadlines.stop_pings()

    async def keep_open(self) -> None:
        self._is_held = True

    def write(self, batch: Batch) -> None:
        if self._writer.is_direct and not self.is_closed:  # once for every subscriber: no call that is not needed
            self._transport.write(batch.frames or batch.joined)
        elif not self.is_closed:
            self._writer.write(batch.joined, len(batch))

    def write_later(self, batch: Batch) -> None:
        if not self.is_closed:
            self._writer.write_later(batch.frames or batch.joined, len(batch.messages))

    def send(self, message: WireMessage) -> None:
        if not self.is_closed:
            self._writer.write_later(frame(message.data, message.binary, self.deflate), 1)

    def send_message(self, data: bytes, *, binary: bool, is_last: bool) -> None:
        """Write one message of the ASGI application, the last of this turn at once; raises ClientGone after the end."""
        if self.is_closed:
            raise ClientGone("the client has gone; nothing can be sent any more")
        framed = frame(data, binary, self.deflate)
        if is_last and self._writer.is_direct:
            self._transport.write(framed)
        else:
            (self._writer.write if is_last else self._writer.write_later)(framed, 0)

    def flush(self) -> None:
        self._writer.flush()

    def backlog(self) -> tuple[int, int]:
        return self._writer.backlog()

    def bytes_ahead(self) -> BytesAhead | None:
        return self._writer.bytes_ahead()

    async def wait_drained(self) -> None:
        while self.paused and not self.is_closed:
            await self._writer.wait_writable()

    def may_wait(self) -> None:
        if not self.is_closed:
            self._reader.may_wait(self.data_received)

    def pause_reading(self) -> None:
        if not self.is_closed:
            self._reader.pause(BY_APPLICATION)

    def resume_reading(self) -> None:
        self._resume_reading(BY_APPLICATION)

    def _resume_reading(self, reason: int) -> None:
        if self._reader.resume(reason):
            self._deadlines.reading_resumed(self._loop.time())

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, or refuse the opening one; ConfigurationError for a code that cannot be sent."""
        if self._opening is not None:
            self._opening.deny(403, (), b"")
        else:
            self._close(Disconnect(code, reason))

    def abort(self) -> None:
        self._closing, self.is_closed = self._closing or LOST, True
        self._transport.abort()

    # Events of the reader.

    def _handle(self, event: str | bytes | Control | Fault) -> None:
        if isinstance(event, Control):
            self._handle_control(event)
        elif isinstance(event, Fault):
            self._fail(event.disconnect, event.limit)
        elif not self.is_closed:
            deadlines, listener = self._deadlines, self._listener
            if deadlines.pong or deadlines.rest:
                deadlines.message_received()
            if listener is not None:
                try:
                    listener.message_received(event)
                except Exception:
                    self._listener_failed()
            elif self._application is not None:
                self._application.put(event)

    def _handle_control(self, control: Control) -> None:
        if not self._deadlines.control_received(self._loop.time()):
            self._fail(Disconnect(1008, "too many control frames", reconnect=False), "rate")
        elif control.opcode is Opcode.PING and not self.is_closed:
            self._writer.write_frame(control_frame(Opcode.PONG, control.payload))
        elif control.opcode is Opcode.PONG:
            self._deadlines.pong_received()
        elif control.disconnect is not None:
            if self._closing is None:
                self._writer.write_frame(control_frame(Opcode.CLOSE, control.payload))
            self._report_closed(self._closing or control.disconnect, clean=True)
            self._end()

    # Ending.

    def _close(self, disconnect: Disconnect) -> None:
        if self.is_closed or not self._reader.is_open:
            return
        self._writer.write_frame(close_frame(disconnect))
        self._closing = disconnect
        self.is_closed = True
        self._reader.limit_rest()
        self._writer.release_waiters()
        if self._application is not None:  # which learns of the end before the closing handshake is over
            self._application.disconnected(disconnect.code, disconnect.reason)
        self._end_within(self._close_seconds)
        self._reader.resume_all()

    def _fail(self, disconnect: Disconnect, limit: str | None = None) -> None:
        """End for a fault of the client: a close frame, then nothing more is read from it."""
        if limit is not None:
            count_limit(limit)
            if self._listener is not None and disconnect is not NO_PONG:
                self._guard(self._listener.refuse, limit, disconnect.reason)
        if self._closing is None:
            self._writer.write_frame(close_frame(disconnect))
        self._report_closed(self._closing or disconnect, clean=False)
        # Bytes that the client still sends are discarded for a moment: a reset could overtake our close frame.
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._writer.flush()
            self._transport.write_eof()
        self._end_within(_LINGER)
        self._reader.resume_all()

    def _end(self) -> None:
        """Close the transport behind its unsent bytes, and abort it when that takes too long."""
        self._writer.flush()
        self._transport.close()
        self._end_within(self._close_seconds)

    def _report_closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        self.is_closed = True
        if self._ended is not None:
            return
        self._ended = (disconnect, clean)
        self._reader.close()
        self._writer.release_waiters()
        if self._application is not None:
            self._application.disconnected(disconnect.code, disconnect.reason)
        listener, self._listener = self._listener, None
        if listener is not None:
            self._guard(listener.closed, disconnect, clean=clean)

    def _guard(self, callback: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            callback(*arguments, **options)
        except Exception:
            self._listener_failed()

    def _listener_failed(self) -> None:
        logger.exception("exception in a listener; its connection is closed")
        self._close(INTERNAL_ERROR)

    def _end_within(self, seconds: float) -> None:
        self._deadlines.end(self._loop.time() + seconds)
        self._schedule()

    # Deadlines.

    def _schedule(self) -> None:
        if (seconds := self._seconds(self._loop.time())) is not None:
            TimerWheel.of(self._loop).schedule(self, seconds)

    def _seconds(self, now: float) -> float | None:
        if self.paused and not self._deadlines.is_ending:
            return min(_LOOK, self._limits.stalled_seconds)
        moment = self._deadlines.next_moment()
        return None if moment is None else moment - now

    def on_timer(self, now: float) -> float | None:
        """Act on a deadline that has passed, and return the seconds until the next one."""
        if self.paused and not self._deadlines.is_ending:
            if self._writer.stalled_seconds(now) >= self._limits.stalled_seconds:
                count_limit("stalled_seconds")
                self._report_closed(STALLED, clean=False)
                self._writer.cut()
                return None
        else:
            reader = self._reader
            if reader.is_amid_message:
                self._deadlines.message_began(now)  # it may have come while reading was paused
            reads, ahead = not reader.is_paused, self._writer.bytes_ahead
            match self._deadlines.take_due(now, is_reading=reads, received=reader.incomplete, ahead=ahead):
                case Due.PING:
                    self._writer.write_frame(control_frame(Opcode.PING, b""))
                case Due.NO_PONG:
                    self._fail(NO_PONG, "pong_seconds")
                case Due.LATE_MESSAGE:
                    self._fail(Disconnect(1008, "the rest of a message did not come in time"), "message_seconds")
                case Due.END:
                    self._transport.abort()
                    return None
        return self._seconds(now)
