"""A connection until its first request is there: it goes on as that of a WebSocket, or to the HTTP class.

Most connections of a realtime server bring one request, the handshake of a WebSocket, in one piece. For those no HTTP
parser is made, and the transport keeps its protocol (links/phases.py).
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
from tidewire.links.opening_handshake import OpeningHandshake, Start
from tidewire.links.phases import Phase, PhasedProtocol
from tidewire.links.unread import UnreadWatch
from tidewire.links.uvicorn import settings_of
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("FirstRequest", "FirstRequestProtocol", "configured")


class FirstRequestProtocol(PhasedProtocol):
    """The connection of a client that may want a WebSocket or something else, which its first request says."""

    __slots__ = ("_limits", "_start")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(server_state)
        self._start = Start(config, server_state, app_state, _loop or asyncio.get_running_loop())
        self._limits = limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        found = cast(asyncio.Transport, transport)
        UnreadWatch.begin(found, self._start.loop, self._limits)
        self.begin(FirstRequest(self, found, self._start, self._limits))


class FirstRequest(Phase):
    """The phase from the first byte of a connection until it is admitted."""

    __slots__ = ("_began", "_data", "_deadline", "_limits", "_protocol", "_silence", "_start", "_transport")

    def __init__(self, protocol: PhasedProtocol, transport: asyncio.Transport, start: Start, limits: Limits) -> None:
        self._protocol = protocol
        self._transport = transport
        self._start = start
        self._limits = limits
        #: When it began; once its first bytes are there, how long it was silent: a wait for admission does not count.
        self._began, self._silence = start.loop.time(), 0.0
        #: Runs until the connection is admitted.
        self._deadline: asyncio.TimerHandle | None = start.loop.call_later(limits.header_seconds, self._expire)
        #: Bytes that have come before that.
        self._data = b""

    # Events of the transport.

    def data_received(self, data: bytes) -> None:
        if self._data:
            self._data += data
            self._transport.pause_reading()
        else:
            self._data = data
            loop = self._start.loop
            self._silence = loop.time() - self._began
            Admission.of(loop).start(self._admitted, self._limits.arrivals)

    def eof_received(self) -> None:
        """Leave it to the transport, which closes."""

    def pause_writing(self) -> None:
        """Wait for nothing: a refusal is all that is written."""

    def resume_writing(self) -> None:
        """Go on with nothing."""

    def connection_lost(self) -> None:
        self._end_wait()

    def drain(self) -> None:
        self._transport.close()

    # Admission.

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
        transport.resume_reading()
        settings = settings_of(self._start.config)
        request = None if settings is None else read_handshake(data, self._limits.header_bytes)
        if settings is None or request is None:
            self._hand_over(data)
            return
        path, headers, early = request
        opening = OpeningHandshake(self._protocol, transport, self._start, settings)
        self._protocol.phase = opening
        opening.request_received("GET", path, headers)
        if early:
            self._protocol.data_received(early)

    def _hand_over(self, data: bytes) -> None:
        self._protocol.end()
        start, make = self._start, cast(Callable[..., HttpProtocol], HttpProtocol)
        protocol = make(start.config, start.server, start.app_state, start.loop, limits=self._limits)
        self._transport.set_protocol(protocol)
        protocol.take_over(self._transport, data, start.loop.time() - self._silence)

    def _expire(self) -> None:
        if self._data:  # it waits to be admitted
            self._deadline = self._start.loop.call_later(self._limits.header_seconds, self._expire)
            return
        count_limit("header_seconds")
        self._transport.write(refusal(HTTPStatus.REQUEST_TIMEOUT))
        self._transport.close()


def configured(limits: Limits) -> partial[FirstRequestProtocol]:
    """Return a factory of protocols with these limits, to be given to uvicorn as `Config(http=…)`."""
    return partial(FirstRequestProtocol, limits=limits)
