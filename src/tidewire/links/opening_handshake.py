"""The opening handshake of a WebSocket on a transport: the phase before its link, which it makes and opens.

Before this comes the request, whole (links/first_request.py, links/http.py) or in bytes (uvicorn's HTTP classes); the
judgement and the answers are in links/handshake.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.server import ServerState

from tidewire.limits import Limits
from tidewire.links.asgi_application import AsgiApplication, ClientGone
from tidewire.links.base import LOST
from tidewire.links.handshake import Handshake, HeaderPairs, plain_response, response
from tidewire.links.phases import Phase, PhasedProtocol
from tidewire.links.websocket import WebSocketLink
from tidewire.protocols.close_codes import SHUTDOWN
from tidewire.support.refusals import note_refusal

__all__ = ("OpeningHandshake", "Start", "WebSocketSettings")

logger = logging.getLogger("uvicorn.error")


class WebSocketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all WebSockets of one server have in common."""

    limits: Limits = Limits()
    #: Negotiate permessage-deflate with clients that offer it.
    deflate: bool = False
    #: Seconds for the client's answer to our close frame.
    close_seconds: float = 5.0


class Start(msgspec.Struct, frozen=True):
    """The values that uvicorn gives a new connection."""

    config: Config
    server: ServerState
    app_state: dict[str, Any]
    loop: asyncio.AbstractEventLoop


class OpeningHandshake(Phase):
    """One opening handshake, until it is answered. Then the link is the connection's next phase, or the last one."""

    __slots__ = ("_handshake", "_link", "_protocol", "_settings", "_start", "_transport")

    def __init__(
        self, protocol: PhasedProtocol, transport: asyncio.Transport, start: Start, settings: WebSocketSettings
    ) -> None:
        self._protocol = protocol
        self._transport = transport
        self._settings = settings
        self._link = WebSocketLink(transport, self, settings.limits, start.loop, settings.close_seconds)
        # Needed until the handshake is answered, and freed then: an application's call may hold this for hours.
        self._start: Start | None = start
        self._handshake: Handshake | None = Handshake(deflate=settings.deflate)

    # Events of the transport.

    def data_received(self, data: bytes) -> None:
        handshake = self._handshake
        if handshake is None or self._link.is_closed:  # it was refused, and this came behind it
            return
        if handshake.path is None:
            self._judged(handshake, handshake.feed(data))
            return
        handshake.early += data
        if len(handshake.early) > self._settings.limits.inbox_bytes:
            self._link.pause_handshake()

    def eof_received(self) -> None:
        self._link.eof_received()

    def pause_writing(self) -> None:
        self._link.pause_writing()

    def resume_writing(self) -> None:
        self._link.resume_writing()

    def connection_lost(self) -> None:
        self._end()
        self._link.connection_lost()

    def drain(self) -> None:
        if not self._link.is_closed:
            answer = plain_response(503, SHUTDOWN.reason, (b"Retry-After", b"1"))
            self._link.refuse(answer.serialize(), SHUTDOWN)

    # The request.

    def request_received(self, method: str, path: bytes, headers: HeaderPairs) -> None:
        """Take the whole upgrade request from the class that has read it."""
        if self._handshake is not None:
            self._judged(self._handshake, self._handshake.take(method, path, headers))

    def _judged(self, handshake: Handshake, refusal: bytes | None) -> None:
        if refusal is not None:
            peer = self._transport.get_extra_info("peername")
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            note_refusal("handshake", "a request that is no WebSocket handshake, or no good one", address=address)
            self._link.refuse(refusal, LOST)
        elif handshake.path is not None and self._start is not None:
            self._run(handshake, self._start)

    def _run(self, handshake: Handshake, start: Start) -> None:
        link, config = self._link, start.config
        scope = handshake.scope(self._transport, config.asgi_version, config.root_path)
        scope["state"] = start.app_state.copy()
        scope["extensions"] = {"websocket.http.response": {}, "tidewire.link": link}
        application = AsgiApplication(self, link, self._settings.limits.inbox_bytes, start.loop)
        link.application_started(application)
        task = cast(Any, application.start(cast(Any, config.loaded_app), scope))
        start.server.tasks.add(task)
        task.add_done_callback(start.server.tasks.discard)

    # The answer.

    def accept(self, headers: HeaderPairs, subprotocol: str | None) -> None:
        """Answer the handshake with 101, and open the link. Raises ClientGone when the client has gone."""
        handshake, start = self._handshake, self._start
        if handshake is None or start is None or self._link.is_closed:
            raise ClientGone("the client has gone before its handshake was answered")
        answer, extensions = handshake.accept([*start.server.default_headers, *headers], subprotocol)
        self._log(handshake, "[accepted]")
        self._end()
        self._protocol.phase = self._link
        most = min(self._settings.limits.message_size, start.config.ws_max_size)
        self._link.open(answer, most, extensions, handshake.early)

    def deny(self, status: int, headers: HeaderPairs, body: bytes) -> None:
        """Answer the handshake with an HTTP response, and end the connection."""
        if self._handshake is not None and not self._link.is_closed:
            self._log(self._handshake, str(status))
            self._link.refuse(response(status, headers, body).serialize(), LOST)

    def _end(self) -> None:
        if self._handshake is not None:
            self._handshake.end()
        self._handshake = self._start = None

    def _log(self, handshake: Handshake, outcome: str) -> None:
        if logger.isEnabledFor(logging.INFO):
            peer = self._transport.get_extra_info("peername")
            address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
            logger.info('%s - "WebSocket %s" %s', address, handshake.describe(), outcome)
