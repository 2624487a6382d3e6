"""A WebSocket protocol class for uvicorn's `ws=` option: ASGI for ordinary endpoints, and a `Link` for the hub.

    uvicorn app:app --ws tidewire.links.uvicorn:WebSocketProtocol

The link is `scope["extensions"]["tidewire.link"]`. Before this comes uvicorn's HTTP class, or our own (links/http.py),
which hands over the connection with its upgrade request; our server's connections are of this class from their first
byte on, or of another one after it (links/first_request.py). After it comes the link (links/websocket.py).
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from random import random
from typing import Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.server import ServerState

from tidewire.limits import Limits
from tidewire.links.asgi_application import AsgiApplication, ClientGone
from tidewire.links.base import LOST
from tidewire.links.handshake import Handshake, HeaderPairs, plain_response, response
from tidewire.links.websocket import WebSocketLink
from tidewire.protocols.close_codes import SHUTDOWN
from tidewire.support.refusals import note_refusal

__all__ = ("WebSocketProtocol", "WebSocketSettings", "configured", "make_own", "settings_of")

logger = logging.getLogger("uvicorn.error")


class WebSocketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all WebSockets of one server have in common."""

    limits: Limits = Limits()
    #: Negotiate permessage-deflate with clients that offer it.
    deflate: bool = False
    #: Seconds for the client's answer to our close frame.
    close_seconds: float = 5.0


_DEFAULTS = WebSocketSettings()


class WebSocketProtocol(asyncio.Protocol):
    """One connection: its opening handshake, then the calls of the transport and of uvicorn for its link.

    uvicorn's `ws_max_size` counts where it is smaller than `limits.message_size`; its ping and deflate settings do not
    count: those of `configured` do.
    """

    __slots__ = ("_handshake", "_link", "_loop", "_max_size", "_server", "_settings", "_start", "_transport")

    _link: WebSocketLink
    _transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: WebSocketSettings = _DEFAULTS,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._server = server_state
        self._settings = settings
        self._max_size = min(settings.limits.message_size, config.ws_max_size)
        # Needed by the handshake alone, freed after it.
        self._start: tuple[Config, dict[str, Any]] | None = (config, app_state)
        self._handshake: Handshake | None = Handshake(deflate=settings.deflate)

    # Called by the transport and uvicorn.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = self._settings
        self._link = WebSocketLink(self._transport, self, settings.limits, self._loop, settings.close_seconds)
        self._server.connections.add(cast(Any, self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(cast(Any, self))
        self._end_handshake()
        self._link.connection_lost()

    def data_received(self, data: bytes) -> None:
        if self._handshake is None:
            self._link.data_received(data)
        else:
            self._read_early(self._handshake, data)

    def eof_received(self) -> None:
        self._link.eof_received()

    def pause_writing(self) -> None:
        self._link.pause_writing()

    def resume_writing(self) -> None:
        self._link.resume_writing()

    def shutdown(self) -> None:
        """Drain: uvicorn calls it for every connection before the lifespan ends."""
        if self._handshake is None:
            self._loop.call_later(random() * self._settings.limits.drain_seconds, self._link.shut_down)
        elif not self._link.is_closed:
            answer = plain_response(503, SHUTDOWN.reason, (b"Retry-After", b"1"))
            self._link.refuse(answer.serialize(), SHUTDOWN)

    # The opening handshake.

    def _read_early(self, handshake: Handshake, data: bytes) -> None:
        if self._link.is_closed:  # it was refused, and this came behind it
            return
        if handshake.path is None:
            self._judged(handshake, handshake.feed(data))
            return
        handshake.early += data
        if len(handshake.early) > self._settings.limits.inbox_bytes:
            self._link.pause_handshake()

    def request_received(self, method: str, path: bytes, headers: HeaderPairs) -> None:
        """Take the whole upgrade request from the class that has read it (links/first_request.py, links/http.py)."""
        if self._handshake is not None:
            self._judged(self._handshake, self._handshake.take(method, path, headers))

    def _judged(self, handshake: Handshake, refusal: bytes | None) -> None:
        if refusal is not None:
            peer = self._transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            note_refusal("handshake", "a request that is no WebSocket handshake, or no good one", address=address)
            self._link.refuse(refusal, LOST)
        elif handshake.path is not None:
            self._run(handshake)

    def _run(self, handshake: Handshake) -> None:
        assert self._start is not None
        config, app_state = self._start
        link = self._link
        scope = handshake.scope(self._transport, config.asgi_version, config.root_path)
        scope["state"] = app_state.copy()
        scope["extensions"] = {"websocket.http.response": {}, "tidewire.link": link}
        application = AsgiApplication(self, link, self._settings.limits.inbox_bytes, self._loop)
        link.application_started(application)
        task = cast(Any, application.start(cast(Any, config.loaded_app), scope))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def accept(self, headers: HeaderPairs, subprotocol: str | None) -> None:
        """Answer the handshake with 101, and open the link. Raises ClientGone when the client has gone."""
        handshake = self._handshake
        if handshake is None or self._link.is_closed:
            raise ClientGone("the client has gone before its handshake was answered")
        answer, extensions = handshake.accept([*self._server.default_headers, *headers], subprotocol)
        self._log(handshake, "[accepted]")
        self._end_handshake()
        self._link.open(answer, self._max_size, extensions, handshake.early)

    def deny(self, status: int, headers: HeaderPairs, body: bytes) -> None:
        """Answer the handshake with an HTTP response, and end the connection."""
        if self._handshake is not None and not self._link.is_closed:
            self._log(self._handshake, str(status))
            self._link.refuse(response(status, headers, body).serialize(), LOST)

    def _end_handshake(self) -> None:
        if self._handshake is not None:
            self._handshake.end()
        self._handshake = self._start = None

    def _log(self, handshake: Handshake, outcome: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            peer = self._transport.get_extra_info("peername")
            address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
            logger.info('%s - "WebSocket %s" %s', address, handshake.describe(), outcome)


def configured(
    limits: Limits, *, deflate: bool = False, close_seconds: float = _DEFAULTS.close_seconds
) -> partial[WebSocketProtocol]:
    """Return a factory of protocols with these limits, to be given to uvicorn as `Config(ws=…)`."""
    settings = WebSocketSettings(limits=limits, deflate=deflate, close_seconds=close_seconds)
    return partial(WebSocketProtocol, settings=settings)


def settings_of(config: Config) -> WebSocketSettings | None:
    """Return the settings of WebSockets of a server; None where it was given another class for them than this one."""
    make: Any = config.ws_protocol_class
    if isinstance(make, partial):
        return make.keywords.get("settings", _DEFAULTS) if make.func is WebSocketProtocol else None
    return _DEFAULTS if make is WebSocketProtocol else None


def make_own(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> WebSocketProtocol | None:
    """Make the protocol of one more WebSocket; None where the server was given another class than this one."""
    make: Any = config.ws_protocol_class
    made = make.func if isinstance(make, partial) else make
    if not (isinstance(made, type) and issubclass(made, WebSocketProtocol)):
        return None
    return cast(WebSocketProtocol, make(config, server_state, app_state))
