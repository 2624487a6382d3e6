"""A WebSocket protocol class for uvicorn's `ws=` option: ASGI for ordinary endpoints, and a `Link` for the hub.

    uvicorn app:app --ws tidewire.links.uvicorn:WebSocketProtocol

The link is `scope["extensions"]["tidewire.link"]`. Before this comes uvicorn's HTTP class (or `links/http.py`),
which hands over the connection with its upgrade request; after it the application, by ASGI or as a listener.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import random
from typing import Any, ClassVar, cast
from weakref import WeakSet

from uvicorn.config import Config
from uvicorn.server import ServerState

from tidewire.errors import INTERNAL_ERROR, NORMAL, SHUTDOWN, Disconnect
from tidewire.links.asgi_application import ClientGone, Endpoint
from tidewire.links.base import LOST, Listener
from tidewire.links.handshake import Handshake, HeaderPairs, plain_response, response
from tidewire.links.reader import ReadingLink
from tidewire.links.writer import BY_HANDSHAKE
from tidewire.messages import WireMessage
from tidewire.options import Limits
from tidewire.protocols.batch import frame

__all__ = ("WebSocketProtocol", "configured")

logger = logging.getLogger("uvicorn.error")
#: The servers whose drain has begun.
_draining: WeakSet[ServerState] = WeakSet()


class WebSocketProtocol(ReadingLink):
    """One connection. `configured` makes a class with other limits than the defaults.

    uvicorn's `ws_max_size` counts where it is smaller than `limits.message_size`; its ping and deflate settings do not:
    `limits` and `compress` do.
    """

    __slots__ = ("_endpoint", "_handshake", "_held", "_is_corked", "_max_size", "_server", "_start")

    #: Negotiate permessage-deflate with clients that offer it.
    compress: ClassVar[bool] = False
    #: Called once for each server when its drain begins, before anything is closed.
    on_drain: ClassVar[list[Callable[[], None]]] = []

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(_loop or asyncio.get_running_loop())
        self._server = server_state
        self._max_size = min(self.limits.message_size, config.ws_max_size)
        # What only the handshake needs, freed after it.
        self._start: tuple[Config, dict[str, Any]] | None = (config, app_state)
        self._handshake: Handshake | None = Handshake(deflate=self.compress)
        self._endpoint: Endpoint | None = None
        self._held = False
        self._is_corked = False

    # What the transport and uvicorn call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(cast(Any, self))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.discard(cast(Any, self))
        self._end_handshake()
        self._endpoint = None

    def data_received(self, data: bytes) -> None:
        if self._handshake is None:
            super().data_received(data)
        else:
            self._read_early(self._handshake, data)

    def shutdown(self) -> None:
        """Drain: called by uvicorn for every connection before the lifespan ends."""
        if self._server not in _draining:
            _draining.add(self._server)
            for callback in self.on_drain:
                callback()
        if self._handshake is not None:
            self._refuse(plain_response(503, SHUTDOWN.reason, (b"Retry-After", b"1")).serialize(), SHUTDOWN)
        else:
            self._loop.call_later(random() * self.limits.drain_seconds, self._leave)

    def _leave(self) -> None:
        if self._listener is not None:
            self._guard(self._listener.shut_down)
        else:
            self._close(SHUTDOWN)

    # The opening handshake.

    def _read_early(self, handshake: Handshake, data: bytes) -> None:
        if handshake.request is not None:
            handshake.early += data
            if len(handshake.early) > self.limits.inbox_bytes:
                self._pause(BY_HANDSHAKE)
            return
        self._judged(handshake, handshake.feed(data))

    def request_received(self, method: str, path: bytes, headers: HeaderPairs) -> None:
        """Take the whole upgrade request from an HTTP class that has parsed it (links/http.py)."""
        if self._handshake is not None:
            self._judged(self._handshake, self._handshake.take(method, path, headers))

    def _judged(self, handshake: Handshake, refusal: bytes | None) -> None:
        if refusal is not None:
            self._refuse(refusal, LOST)
        elif handshake.request is not None:
            self._run(handshake)

    def _run(self, handshake: Handshake) -> None:
        assert self._start is not None
        config, app_state = self._start
        scope = handshake.scope(self.transport, config.asgi_version, config.root_path)
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
        if self._is_corked:
            self.transport = cast(asyncio.Transport, _Corked(self, self.transport, answer))
        else:
            self.transport.write(answer)
        self._log(handshake, "[accepted]")
        self._end_handshake()
        self.open(self._max_size, extensions, handshake.early)

    def deny(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with an HTTP response, and end the connection."""
        if self._handshake is not None and not self.is_closed:
            self._log(self._handshake, str(status))
            self._refuse(response(status, headers, body).serialize(), LOST)

    def _end_handshake(self) -> None:
        if self._handshake is not None:
            self._handshake.end()
        self._handshake = self._start = None

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

    # The application.

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, or refuse the opening one. Raises ConfigurationError for a code that is none."""
        if self._handshake is not None:
            self.deny(403, (), b"")
        else:
            super().close(code, reason)

    def cork(self) -> None:
        self._is_corked = True

    def uncork(self) -> None:
        if self._is_corked:
            self._is_corked = False
            if isinstance(self.transport, _Corked):
                self.transport.write(b"")

    async def hold(self) -> None:
        self._held = True

    def listen(self, listener: Listener) -> None:
        endpoint = self._endpoint
        super().listen(listener)
        for message in endpoint.take() if endpoint is not None else ():
            self._guard(listener.message_received, message)

    def message(self, message: str | bytes) -> None:
        """Give a message to the endpoint."""
        if self._endpoint is not None:
            self._endpoint.put(message)

    def told_closed(self, disconnect: Disconnect) -> None:
        """Tell the endpoint, which is told before the closing handshake is over."""
        if self._endpoint is not None:
            self._endpoint.disconnected(disconnect.code, disconnect.reason)

    def send_message(self, message: WireMessage) -> None:
        """Write one message (ASGI); raises ClientGone after the end."""
        if self.is_closed:
            raise ClientGone("the client has gone; nothing can be sent any more")
        data = frame(message, deflate=self.deflate)
        if self._stall is not None:
            self._stall.bytes += len(data)
        self.transport.write(data)

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


class _Corked:
    """Stands for the transport of a link until something is written: the handshake's answer goes out in front of it."""

    __slots__ = ("_answer", "_link", "_transport")

    def __init__(self, link: WebSocketProtocol, transport: asyncio.Transport, answer: bytes) -> None:
        self._link = link
        self._transport = transport
        self._answer = answer

    def write(self, data: bytes) -> None:
        self._link.transport = self._transport
        self._transport.write(self._answer + data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def configured(
    limits: Limits, *, deflate: bool = False, close_seconds: float = WebSocketProtocol.close_seconds
) -> type[WebSocketProtocol]:
    """Return a protocol class with these limits, to be given to uvicorn as `Config(ws=…)`."""
    namespace = {"__slots__": (), "limits": limits, "compress": deflate, "close_seconds": close_seconds}
    return cast(type[WebSocketProtocol], type("WebSocketProtocol", (WebSocketProtocol,), namespace))
