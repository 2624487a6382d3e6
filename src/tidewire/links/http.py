"""An HTTP protocol class for uvicorn's `http=` option that bounds requests in bytes, in time and in number.

    uvicorn app:app --http tidewire.links.http:HttpProtocol --ws tidewire.links.uvicorn:WebSocketProtocol

uvicorn's own class waits for ever for the end of a request, and keeps any number of headers and requests.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserInvalidURLError, HttpParserUpgrade
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tidewire.limits import Limits
from tidewire.links.host import BadHost, relative_redirects, set_host
from tidewire.links.tcp_socket import cut
from tidewire.links.unread import UnreadWatch
from tidewire.links.uvicorn import make_own
from tidewire.links.writer import Stall
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("HttpProtocol", "refusal")

_DEFAULTS = Limits()
#: Seconds between two looks at a client that takes less than is written.
_LOOK = 1.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _State(Enum):
    HEADERS = auto()  #: from accept, or from the first byte of a further request, to the end of the headers
    BODY = auto()
    IDLE = auto()  #: between requests; uvicorn's keep-alive timeout runs


class _TooLarge(Exception):
    """Stops the parser."""


class _TooMany(Exception):
    """Stops the parser: too many requests wait behind one that is being answered."""


class _Stream:
    """The needs of an endless response beyond ASGI (links.stream.StreamServer)."""

    __slots__ = ("abort", "on_shutdown")

    def __init__(self, abort: Callable[[], None]) -> None:
        self.abort = abort
        self.on_shutdown: Callable[[], None] | None = None


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection; a request that is too large, too slow, or one too many ends it."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits = _DEFAULTS,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self.app = partial(_call, self.app)
        self._state = _State.HEADERS
        self._deadline: asyncio.TimerHandle | None = None
        #: Bytes of the headers that are parsed, and of those that came, in reads that ended within them.
        self._parsed = self._came = 0
        #: Bytes of the body, and when it was first waited for.
        self._body = 0
        self._body_began = 0.0
        #: The bytes that are being parsed.
        self._chunk = b""
        #: The bytes that came before this connection was admitted; None afterwards.
        self._first: bytes | None = b""
        #: Those of the request that is being answered, and of the requests behind it.
        self._streams: tuple[_Stream, ...] = ()
        #: The same requests as uvicorn has them: it tells the newest one alone that the client has gone.
        self._cycles: tuple[RequestResponseCycle, ...] = ()
        #: The account of a client that takes less than is written, and the next look at it.
        self._stall: Stall | None = None
        self._looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        UnreadWatch.begin(transport, self.loop, self._limits)
        self._begin()

    def take_over(self, transport: asyncio.Transport, data: bytes, began: float) -> None:
        """Go on with a connection that began some time ago, and was admitted with its first bytes."""
        super().connection_made(transport)
        self._begin(began)
        self._first = data
        self._admitted()

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter(_State.IDLE)
        self._streams = ()
        self._end_stall()
        cycles, self._cycles = self._cycles, ()
        for cycle in cycles:
            cycle.disconnected = cycle.disconnected or not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Drain: an endless response is told to end."""
        super().shutdown()
        for stream in self._streams:
            if stream.on_shutdown is not None:
                stream.on_shutdown()

    def pause_writing(self) -> None:
        """Begin to watch how much the client takes."""
        super().pause_writing()
        self._end_stall()
        self._stall = Stall(self.transport, self.loop.time())
        self._look_later()

    def resume_writing(self) -> None:
        """End the watch."""
        self._end_stall()
        super().resume_writing()

    def _end_stall(self) -> None:
        self._stall = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(min(_LOOK, self._limits.stalled_seconds), self._look)

    def _look(self) -> None:
        assert self._stall is not None
        seconds = self._stall.lasts(self.loop.time())
        if seconds < self._limits.stalled_seconds:
            self._look_later()
        else:
            count_limit("stalled_seconds")
            cut(self.transport)

    def data_received(self, data: bytes) -> None:
        if self._first is None:
            self._read(data)
        elif self._first:
            self._first += data
            self.flow.pause_reading()
        else:
            self._first = data
            Admission.of(self.loop).start(self._admitted, self._limits.arrivals)

    def _admitted(self) -> None:
        data, self._first = self._first, None
        if data and not self.transport.is_closing():
            self.flow.resume_reading()
            self._read(data)

    def _read(self, data: bytes) -> None:
        if self._state is _State.IDLE:
            self._begin()
        was_in_headers = self._state is _State.HEADERS
        self._chunk = data
        super().data_received(data)
        self._chunk = b""
        if was_in_headers and self._state is _State.HEADERS and not self.transport.is_closing():
            self._came += len(data)
            if self._came > self._limits.header_bytes:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header_bytes")
        elif self._state is _State.BODY and self._deadline is None:
            self._body_began = self.loop.time()
            self._deadline = self.loop.call_later(self._limits.body_seconds, self._expire_body)

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._state is _State.IDLE:
            self._begin()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value.rstrip(b" \t"))  # the parser strips only leading space (RFC 9110 section 5.5)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= self._limits.pipelined:
            raise _TooMany
        set_host(self.url, self.headers, self.parser.get_http_version())
        self._enter(_State.BODY)
        self._body = 0
        stream = _Stream(self.transport.abort)
        waiting = len(self.pipeline)
        is_first = self.cycle is None or self.cycle.response_complete
        self._streams = (stream,) if is_first else (*self._streams[-waiting - 1 :], stream)
        cast(Any, self.scope)["extensions"] = {"tidewire.stream": stream}
        super().on_headers_complete()
        if self.cycle is not None:
            self._cycles = (*(cycle for cycle in self._cycles if not cycle.response_complete), self.cycle)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._enter(_State.IDLE)

    def handle_websocket_upgrade(self) -> None:
        """Hand over to the WebSocket class, with the bytes that the client has sent behind its request."""
        if self.scope["http_version"] != "1.1":
            self.send_400_response("a WebSocket handshake needs HTTP/1.1")
            return
        if self._stall is not None or (self.cycle is not None and not self.cycle.response_complete):
            # Its call would not learn that the client goes, and the WebSocket not that the client takes nothing.
            self.send_400_response("a WebSocket handshake must wait until the answer before it is read")
            return
        error = sys.exception()
        early = self._chunk[error.args[0] :] if isinstance(error, HttpParserUpgrade) else b""
        protocol = make_own(self.config, self.server_state, self.app_state)
        if protocol is not None:
            self.connections.discard(self)
            protocol.take_over(self.transport, self.scope["method"], self.url, self.scope["headers"])
        else:
            super().handle_websocket_upgrade()
        # The parser and this object refer to each other: left alone, both would wait for the garbage collector.
        self.parser = cast(Any, None)
        self._chunk = b""
        if early:
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(early)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser has stopped at."""
        if self._parsed > self._limits.header_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header_bytes")
        elif len(self.pipeline) >= self._limits.pipelined:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "pipelined")
        elif self._is_answering:
            self._enter(_State.IDLE)
            self.transport.abort()
        elif not self.transport.is_closing():
            self._enter(_State.IDLE)
            error = sys.exception()
            cause = error.__context__ if error is not None else None
            if isinstance(error, HttpParserInvalidURLError):
                msg = (
                    "the address of this request has characters that must be percent-encoded (as curl --url-query does)"
                )
            super().send_400_response(str(cause) if isinstance(cause, BadHost) else msg)

    # The budget.

    def _begin(self, began: float | None = None) -> None:
        self._state = _State.HEADERS
        self._parsed = self._came = 0
        since = self.loop.time() if began is None else began
        self._deadline = self.loop.call_at(since + self._limits.header_seconds, self._expire)

    def _enter(self, state: _State) -> None:
        self._state = state
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > self._limits.header_bytes:
            raise _TooLarge

    def _expire(self) -> None:
        self._deadline = None
        if self.flow.read_paused or self._first:
            # It waits to be admitted, or is a pipelined request that is not read while another is being answered.
            self._deadline = self.loop.call_later(self._limits.header_seconds, self._expire)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "header_seconds")

    def _expire_body(self) -> None:
        """Refuse a body that is slower than its rate; the time in which it is not read does not count."""
        limits, self._deadline = self._limits, None
        left = limits.body_seconds + self._body / limits.body_rate - (self.loop.time() - self._body_began)
        if self.flow.read_paused:
            self._body_began = self.loop.time() - self._body / limits.body_rate
            left = limits.body_seconds
        if left > 0:
            self._deadline = self.loop.call_later(left, self._expire_body)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "body_seconds")

    @property
    def _is_answering(self) -> bool:
        """Whether an answer has begun and is not complete, so that no other may be written."""
        cycle = self.cycle
        return bool(self.pipeline) or (cycle is not None and cycle.response_started and not cycle.response_complete)

    def _refuse(self, status: HTTPStatus, limit: str) -> None:
        count_limit(limit)
        self._enter(_State.IDLE)
        if self._is_answering:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.write(refusal(status))
            self.transport.close()


def refusal(status: HTTPStatus) -> bytes:
    """Return an answer that ends the connection."""
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode()


def _call(app: Application, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Call the application for a request."""
    return app(scope, receive, relative_redirects(scope, send))
