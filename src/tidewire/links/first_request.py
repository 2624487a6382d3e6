"""A connection until its first request is there: a WebSocket's goes straight to its protocol, others to the HTTP class.

Most connections of a realtime server bring one request, the handshake of a WebSocket, in one piece. For those no HTTP
parser is made.
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
from tidewire.links.handshake import read_handshake
from tidewire.links.http import HttpProtocol, refusal
from tidewire.links.uvicorn import WebSocketProtocol, make_own
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("FirstRequest", "configured")


class FirstRequest(asyncio.Protocol):
    """One connection, from its first byte until it is admitted."""

    __slots__ = (
        "_began",
        "_config",
        "_data",
        "_deadline",
        "_limits",
        "_loop",
        "_server",
        "_silence",
        "_state",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        self._config = config
        self._server = server_state
        self._state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._limits = limits
        #: When it began; once its first bytes are there, how long it was silent: a wait for admission does not count.
        self._began = self._silence = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        #: Bytes that have come before this connection was admitted.
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(cast(Any, self))
        self._began = self._loop.time()
        self._deadline = self._loop.call_later(self._limits.header_seconds, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def data_received(self, data: bytes) -> None:
        if self._data:
            self._data += data
            self._transport.pause_reading()
        else:
            self._data = data
            self._silence = self._loop.time() - self._began
            Admission.of(self._loop).start(self._admitted, self._limits.arrivals)

    def shutdown(self) -> None:
        """Drain: uvicorn calls it for every connection."""
        self._transport.close()

    def _leave(self) -> None:
        self._server.connections.discard(cast(Any, self))
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _admitted(self) -> None:
        """Hand the connection over to the class that its first request needs."""
        transport, data = self._transport, self._data
        if self._deadline is None or transport.is_closing():
            return
        self._leave()
        transport.resume_reading()
        request = read_handshake(data, self._limits.header_bytes)
        protocol = None if request is None else make_own(self._config, self._server, self._state)
        if request is None or protocol is None:
            self._hand_over(data)
            return
        path, headers, early = request
        self._begin(protocol)
        protocol.request_received("GET", path, headers)
        if early:
            protocol.data_received(early)

    def _begin(self, protocol: WebSocketProtocol) -> None:
        protocol.connection_made(self._transport)
        self._transport.set_protocol(protocol)

    def _hand_over(self, data: bytes) -> None:
        make: Callable[..., HttpProtocol] = HttpProtocol
        protocol = make(self._config, self._server, self._state, self._loop, limits=self._limits)
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
