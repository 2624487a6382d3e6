"""A WebSocket protocol class for uvicorn's `ws=` option: ASGI for ordinary endpoints, and a `Link` for the hub.

    uvicorn app:app --ws tidewire.links.uvicorn:WebSocketProtocol

The link is `scope["extensions"]["tidewire.link"]`. Before this comes uvicorn's HTTP class (or `links/http.py`),
which hands over the connection with its upgrade request; after it the application, by ASGI or as a listener.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from random import random
from typing import Any, ClassVar, cast

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Core
from websockets.protocol import Side

from tidewire.batch import Batch, frame
from tidewire.errors import (
    INTERNAL_ERROR,
    NO_PONG,
    NORMAL,
    SHUTDOWN,
    STALLED,
    ConfigurationError,
    Disconnect,
)
from tidewire.links.base import Link, Listener
from tidewire.links.endpoint import ClientGone, Endpoint
from tidewire.links.handshake import WIRE_LOGGER, Handshake, plain_response, response
from tidewire.links.wheel import Wheel
from tidewire.messages import WireMessage
from tidewire.options import Limits

__all__ = ("WebSocketProtocol", "configured", "limits_reached")

logger = logging.getLogger("uvicorn.error")

#: How often each limit was reached, by its name in `Limits`.
limits_reached: Counter[str] = Counter()

_HIGH_WATER, _LOW_WATER = 65_536, 16_384
#: Bytes that are parsed at a time: bounds what one read of many tiny frames can make of memory.
_SLICE = 4_096
_PING = b"\x89\x00"
#: Why reading is paused: by the layer above, by our own full write buffer, by a handshake without an answer.
_BY_APPLICATION, _BY_WRITER, _BY_HANDSHAKE = 1, 2, 4
#: Seconds between a failure (its close frame was sent) and the abort.
_LINGER = 1.0
#: Seconds between looks at a peer that takes nothing.
_STALL_LOOK = 1.0

_LOST = Disconnect(1006, "connection lost")


class WebSocketProtocol(asyncio.Protocol, Link):
    """One connection. `configured` makes a class with other limits than the defaults.

    uvicorn's `ws_max_size` counts where it is smaller than `limits.message_size`; its ping and deflate settings do not:
    `limits` and `compress` do.
    """

    __slots__ = (
        "_closing",
        "_control_time",
        "_core",
        "_end_due",
        "_ended",
        "_endpoint",
        "_fragments",
        "_handshake",
        "_held",
        "_in_read",
        "_listener",
        "_loop",
        "_max_size",
        "_pauses",
        "_ping_due",
        "_pong_due",
        "_server",
        "_stall",
        "_start",
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
    #: Negotiate permessage-deflate with clients that offer it.
    compress: ClassVar[bool] = False
    #: Seconds for the peer's answer to our close frame.
    close_seconds: ClassVar[float] = 5.0
    #: Called when a drain begins, for each connection before its own drain.
    on_drain: ClassVar[list[Callable[[], None]]] = []

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._server = server_state
        self._wheel = Wheel.of(self._loop)
        self._start: tuple[Config, dict[str, Any]] | None = (config, app_state)
        self._handshake: Handshake | None = Handshake(deflate=self.compress)
        self._max_size = min(self.limits.message_size, config.ws_max_size)
        self._core: Core | None = None
        self._endpoint: Endpoint | None = None
        self._listener: Listener | None = None
        self._fragments: list[Frame] | None = None
        self._unread = b""
        self._pauses = 0
        self._in_read = False
        self._held = False
        self._writable: asyncio.Event | None = None
        self._stall: _Stall | None = None
        self._closing: Disconnect | None = None
        self._ended: tuple[Disconnect, bool] | None = None
        self._control_time = self._ping_due = self._pong_due = self._end_due = 0.0
        self.notch = 0
        self.deflate = self.paused = self.is_closed = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    # What the transport and uvicorn call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)
        self._server.connections.add(cast(Any, self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._wheel.leave(self)
        self._server.connections.discard(cast(Any, self))
        self._handshake = self._start = self._stall = None
        self._unread = b""
        self._tell_closed(self._closing or _LOST, clean=False)
        self.resume_writing()
        self._core = self._endpoint = None

    def pause_writing(self) -> None:
        self.paused = True
        self._pause(_BY_WRITER)
        self._stall = _Stall(self.transport.get_write_buffer_size(), self._loop.time())
        if not self._end_due:
            self._wheel.ride(self, min(_STALL_LOOK, self.limits.stalled_seconds))

    def resume_writing(self) -> None:
        if not self.paused:
            return
        self.paused = False
        if self._stall is not None:
            self._stall = None
            self._schedule()
        self._unpause(_BY_WRITER)
        if self._writable is not None:
            self._writable.set()
            self._writable = None
        if self._listener is not None and not self.is_closed:
            self._guard(self._listener.drained)

    def eof_received(self) -> None:
        if self._ended is None:
            self._tell_closed(self._closing or _LOST, clean=False)
            self._end(self.close_seconds)

    def data_received(self, data: bytes) -> None:
        self._pong_due = 0.0
        if self._handshake is not None:
            self._read_early(data)
        elif self._unread:
            self._unread += data
        elif self._ended is None:
            self._read(data)

    def shutdown(self) -> None:
        """Drain: called by uvicorn for every connection before the lifespan ends."""
        for callback in self.on_drain:
            callback()
        if self._handshake is not None:
            self._refuse(plain_response(503, SHUTDOWN.reason, (b"Retry-After", b"1")).serialize(), SHUTDOWN)
        else:
            self._loop.call_later(random() * self.limits.drain_seconds, self._drain)

    def _drain(self) -> None:
        self._close(SHUTDOWN)

    # The opening handshake.

    def _read_early(self, data: bytes) -> None:
        handshake = self._handshake
        assert handshake is not None
        if handshake.request is not None:
            handshake.early += data
            if len(handshake.early) > self.limits.inbox_bytes:
                self._pause(_BY_HANDSHAKE)
            return
        refusal = handshake.feed(data)
        if refusal is not None:
            self._refuse(refusal, _LOST)
        elif handshake.request is not None:
            self._run()

    def _run(self) -> None:
        assert self._handshake is not None
        assert self._start is not None
        config, app_state = self._start
        scope = self._handshake.scope(self.transport, config.asgi_version, config.root_path)
        scope["state"] = app_state.copy()
        scope["extensions"] = {"websocket.http.response": {}, "tidewire.link": self}
        self._endpoint = Endpoint(self, self.limits.inbox_bytes)
        task = self._loop.create_task(self._endpoint.run(cast(Any, config.loaded_app), scope))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def accept(self, headers: Iterable[tuple[bytes, bytes]], subprotocol: str | None) -> None:
        """Answer the handshake with 101; what the client sent early is read in the next turn of the loop."""
        handshake = self._handshake
        if handshake is None or self.is_closed:
            raise ClientGone("the client has gone before its handshake was answered")
        answer, extensions = handshake.accept([*self._server.default_headers, *headers], subprotocol)
        self.transport.write(answer)
        self._log(handshake, "[accepted]")
        # A fresh core: the one of the handshake would keep the request for as long as the connection lasts.
        self._core = core = Core(Side.SERVER, max_size=self._max_size, logger=WIRE_LOGGER)
        core.extensions = extensions
        self.deflate = bool(extensions)
        self._unread = handshake.early
        self._handshake = self._start = None
        self._pauses &= ~_BY_HANDSHAKE
        if self._unread:
            self._loop.call_soon(self._read_on)
        interval = self.limits.ping_seconds
        if interval > 0:
            self._ping_due = self._loop.time() + random() * interval
            self._schedule()

    def deny(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with an HTTP response, and end the connection."""
        if self._handshake is not None and not self.is_closed:
            self._log(self._handshake, str(status))
            self._refuse(response(status, headers, body).serialize(), _LOST)

    def _refuse(self, answer: bytes, disconnect: Disconnect) -> None:
        self.transport.write(answer)
        self._closing = disconnect
        self._tell_closed(disconnect, clean=False)
        self._end(self.close_seconds)

    def _log(self, handshake: Handshake, outcome: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            peer = self.transport.get_extra_info("peername")
            address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
            logger.info('%s - "WebSocket %s" %s', address, handshake.describe(), outcome)

    def application_returned(self, *, failed: bool) -> None:
        """The ASGI call has ended: so does the connection, unless it is held."""
        self._endpoint = None
        if self._handshake is not None:
            if not self.is_closed:
                self.deny(500, (), b"Internal Server Error")
        elif failed:
            self._close(INTERNAL_ERROR)
        elif not self._held:
            self._close(NORMAL)

    # Reading.

    def _read(self, data: bytes) -> None:
        self._in_read = True
        position, size = 0, len(data)
        while position < size and not self._pauses and self._ended is None:
            self._parse(data if size <= _SLICE else data[position : position + _SLICE])
            position += _SLICE
        self._in_read = False
        if self._ended is not None:
            return
        if position < size:
            self._unread = data[position:]
        elif not self._pauses:
            self.transport.resume_reading()

    def _read_on(self) -> None:
        data, self._unread = self._unread, b""
        if self._pauses or self._in_read:
            self._unread = data
        elif self._ended is None:
            self._read(data)

    def _parse(self, data: bytes) -> None:
        core = self._core
        assert core is not None
        core.receive_data(data)
        for event in core.events_received():
            assert isinstance(event, Frame)
            self._take(event)
            if self._ended is not None:
                break
        if output := core.data_to_send():
            self._write_last(output)
        if core.parser_exc is not None and self._ended is None:
            self._parser_failed(core)

    def _take(self, event: Frame) -> None:
        opcode = event.opcode
        if opcode is Opcode.PING or opcode is Opcode.PONG:
            self._take_control()
        elif opcode is Opcode.CLOSE:
            self._take_close()
        elif self.is_closed:
            return
        elif opcode is Opcode.CONT:
            self._take_fragment(event)
        elif event.fin:
            self._deliver(opcode, event.data)
        else:
            self._fragments = [event]

    def _take_fragment(self, event: Frame) -> None:
        fragments = self._fragments
        if fragments is None:
            return
        fragments.append(event)
        if event.fin:
            self._fragments = None
            self._deliver(fragments[0].opcode, b"".join([fragment.data for fragment in fragments]))
        elif len(fragments) > self.limits.fragments:
            self._fail(1009, f"more than {self.limits.fragments} fragments", "fragments")

    def _take_control(self) -> None:
        rate, now = self.limits.rate, self._loop.time()
        self._control_time = max(self._control_time, now) + 1.0 / rate
        if self._control_time - now > self.limits.burst / rate:
            self._fail(1008, "too many control frames", "rate")

    def _take_close(self) -> None:
        core = self._core
        assert core is not None
        received = core.close_rcvd
        assert received is not None
        self._tell_closed(self._closing or Disconnect(int(received.code), received.reason), clean=True)
        # Our own answer is in the core; both are behind what the listener has just written.
        self._write_last(core.data_to_send())
        self._end(self.close_seconds)

    def _deliver(self, opcode: Opcode, data: Any) -> None:
        message: str | bytes
        if opcode is Opcode.TEXT:
            try:
                message = str(data, "utf-8")
            except UnicodeDecodeError as error:
                self._fail(1007, f"{error.reason} at position {error.start}", None)
                return
        else:
            message = bytes(data)
        if self._listener is not None:
            self._guard(self._listener.message_received, message)
        elif self._endpoint is not None:
            self._endpoint.put(message)

    def _parser_failed(self, core: Core) -> None:
        if isinstance(core.parser_exc, PayloadTooBig):
            limits_reached["message_size"] += 1
        sent = core.close_sent
        self._tell_closed(_LOST if sent is None else Disconnect(int(sent.code), sent.reason, reconnect=False), clean=False)
        self._linger()

    # The link.

    def listen(self, listener: Listener) -> None:
        if self._listener is not None:
            raise ConfigurationError("this link has a listener already; a connection has one reader")
        early = [] if self._endpoint is None else self._endpoint.take()
        if self._ended is not None:
            self._loop.call_soon(lambda ended: listener.closed(ended[0], clean=ended[1]), self._ended)
            return
        self._listener = listener
        self.resume_reading()
        for message in early:
            self._guard(listener.message_received, message)

    async def hold(self) -> None:
        self._held = True

    def write(self, batch: Batch) -> None:
        if self.is_closed:
            return
        stall = self._stall
        if stall is not None:
            stall.bytes += len(batch.joined)
            stall.messages += len(batch)
        self.transport.write(batch.joined)

    def send_message(self, message: WireMessage) -> None:
        """Write one message (ASGI); raises ClientGone after the end."""
        if self.is_closed:
            raise ClientGone("the client has gone; nothing can be sent any more")
        data = frame(message, deflate=self.deflate)
        if self._stall is not None:
            self._stall.bytes += len(data)
        self.transport.write(data)

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
        self._closing = self._closing or _LOST
        self.is_closed = True
        self.transport.abort()

    # Ending.

    def _close(self, disconnect: Disconnect) -> None:
        core = self._core
        if self.is_closed:
            return
        if core is None:
            self.deny(403, (), b"")
            return
        try:
            core.send_close(disconnect.code, _short(disconnect.reason))
        except ProtocolError:
            raise ConfigurationError(
                f"close code {disconnect.code} cannot be sent; write 1000 to 1014 or 3000 to 4999"
            ) from None
        self._closing = disconnect
        self._write_last(core.data_to_send())
        self.is_closed = True
        self._fragments = None
        self._release()
        if self._endpoint is not None:
            self._endpoint.disconnected(disconnect.code, disconnect.reason)
        self._end_due = self._loop.time() + self.close_seconds
        self._schedule()
        self._unpause(self._pauses)

    def _fail(self, code: int, reason: str, limit: str | None) -> None:
        """End for a fault of the peer: close frame, then nothing more is read from it."""
        core = self._core
        assert core is not None
        if limit is not None:
            limits_reached[limit] += 1
        core.fail(code, _short(reason))
        self._write_last(core.data_to_send())
        self._tell_closed(self._closing or Disconnect(code, reason, reconnect=False), clean=False)
        self._linger()

    def _give_up(self, disconnect: Disconnect, limit: str) -> None:
        core = self._core
        assert core is not None
        limits_reached[limit] += 1
        core.fail(disconnect.code, disconnect.reason)
        self._write_last(core.data_to_send())
        self._tell_closed(disconnect, clean=False)
        self._linger()

    def _write_last(self, output: list[bytes]) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"".join(output))

    def _linger(self) -> None:
        """Discard for a moment what the peer still sends: a close at once would reset it before it has our close frame."""
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
        self._release()
        if self._endpoint is not None:
            self._endpoint.disconnected(disconnect.code, disconnect.reason)
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
            return min(_STALL_LOOK, self.limits.stalled_seconds)
        if self._pong_due:
            return self._pong_due - now
        return self._ping_due - now if self._ping_due else None

    def turn(self, now: float) -> float | None:
        """Do what is due: abort, judge a stall, end for a missing pong, or ping."""
        if self._end_due:
            if now >= self._end_due:
                self.transport.abort()
                return None
        elif self._stall is not None:
            if self._stall.lasts(self.transport.get_write_buffer_size(), now) >= self.limits.stalled_seconds:
                limits_reached["stalled_seconds"] += 1
                self._tell_closed(STALLED, clean=False)
                self.transport.abort()
                return None
        elif self._pong_due:
            if self._pauses:
                self._pong_due = now + self.limits.pong_seconds
            elif now >= self._pong_due:
                self._give_up(NO_PONG, "pong_seconds")
        elif self._ping_due and now >= self._ping_due:
            self.transport.write(_PING)
            self._pong_due = now + self.limits.pong_seconds
            self._ping_due = now + self.limits.ping_seconds
        return self._seconds(now)


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


def configured(
    limits: Limits, *, deflate: bool = False, close_seconds: float = WebSocketProtocol.close_seconds
) -> type[WebSocketProtocol]:
    """Return a protocol class with these limits, to be given to uvicorn as `Config(ws=…)`."""
    namespace = {"__slots__": (), "limits": limits, "compress": deflate, "close_seconds": close_seconds}
    return cast(type[WebSocketProtocol], type("WebSocketProtocol", (WebSocketProtocol,), namespace))
