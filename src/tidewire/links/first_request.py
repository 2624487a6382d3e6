"""A connection until its first request is there: it goes on as that of a WebSocket, or to the HTTP class.

Most connections of a realtime server bring one request, the handshake of a WebSocket, in one piece. For those no HTTP
parser is made, and the transport keeps its protocol: to set another one stops and starts its reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from tidewire.limits import Limits
from tidewire.links.handshake import Handshake, read_handshake
from tidewire.links.http import HttpProtocol, refusal
from tidewire.links.uvicorn import WebSocketProtocol, WebSocketSettings, settings_of
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("FirstRequest", "configured")


class FirstRequest(WebSocketProtocol):
    """One connection, from its first byte on. Until it is admitted, it is neither a WebSocket's nor another's."""

    __slots__ = ("_began", "_data", "_deadline", "_is_own", "_limits", "_silence")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        settings = settings_of(config)
        super().__init__(config, server_state, app_state, _loop, settings=settings or WebSocketSettings(limits=limits))
        #: Whether the server was given no other class for WebSockets.
        self._is_own = settings is not None
        self._limits = limits
        #: When it began; once its first bytes are there, how long it was silent: a wait for admission does not count.
        self._began = self._silence = 0.0
        #: Runs until the connection is admitted.
        self._deadline: asyncio.TimerHandle | None = None
        #: Bytes that have come before that.
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(cast(Any, self))
        self._began = self._loop.time()
        self._deadline = self._loop.call_later(self._limits.header_seconds, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is None:
            super().connection_lost(exc)
        else:
            self._leave()

    def eof_received(self) -> None:
        if self._deadline is None:
            super().eof_received()

    def shutdown(self) -> None:
        if self._deadline is None:
            super().shutdown()
        else:
            self._transport.close()

    def _read_early(self, handshake: Handshake, data: bytes) -> None:
        if self._deadline is None:
            super()._read_early(handshake, data)
        elif self._data:
            self._data += data
            self._transport.pause_reading()
        else:
            self._data = data
            self._silence = self._loop.time() - self._began
            Admission.of(self._loop).start(self._admitted, self._limits.arrivals)

    def _leave(self) -> None:
        self._server.connections.discard(cast(Any, self))
        self._end_wait()

    def _end_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _admitted(self) -> None:
        """Go on with the class that the first request needs."""
        transport, data = self._transport, self._data
        if self._deadline is None or transport.is_closing():
            return
        self._end_wait()
        self._data = b""
        transport.resume_reading()
        request = read_handshake(data, self._limits.header_bytes) if self._is_own else None
        if request is None:
            self._hand_over(data)
            return
        path, headers, early = request
        super().connection_made(transport)
        self.request_received("GET", path, headers)
        if early:
            self.data_received(early)

    def _hand_over(self, data: bytes) -> None:
        assert self._start is not None
        self._leave()
        make: Callable[..., HttpProtocol] = HttpProtocol
        protocol = make(self._start[0], self._server, self._start[1], self._loop, limits=self._limits)
        self._transport.set_protocol(protocol)
        protocol.take_over(self._transport, data, self._loop.time() - self._silence)

    def _expire(self) -> None:
        if self._data:  # it waits to be admitted
            self._deadline = self._loop.call_later(self._limits.header_seconds, self._expire)
            return
        count_limit("header_seconds")
        self._transport.write(refusal(HTTPStatus.REQUEST_TIMEOUT))
        self._transport.close()


def configured(limits: Limits) -> partial[FirstRequest]:
    """Return a factory of protocols with these limits, to be given to uvicorn as `Config(http=…)`."""
    return partial(FirstRequest, limits=limits)
