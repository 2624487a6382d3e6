"""The hub, which a FastAPI application holds: its verbs, decorators and routers in one class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.websockets import WebSocket

from tidewire.channels import check_text
from tidewire.errors import ConfigurationError
from tidewire.hub.decorators import Decorators
from tidewire.hub.hosting import connecting_user
from tidewire.hub.map_verbs import MapVerbs
from tidewire.hub.routers import Routers
from tidewire.hub.text_verbs import TextVerbs
from tidewire.hub.verbs import Verbs
from tidewire.messages import IssuedToken
from tidewire.protocols.base import Protocol
from tidewire.protocols.payload import encode_json
from tidewire.protocols.plain import PLAIN
from tidewire.rules.base import Identity
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.application import HubConnection
from tidewire.sessions.arguments import check_is, headers_from
from tidewire.support.shown_value import shown

__all__ = ("Hub",)


class Hub(Verbs, TextVerbs, MapVerbs, Decorators, Routers):
    """Channels, history, presence and connections for a FastAPI application.

    `url` names the store (memory://, sqlite:///chat.db). `channels` maps channel names or patterns (`room:*`) to their
    options. `origins` are the browser origins that may connect beside the application's own: `https://app.example.org`,
    `http://localhost:*`, `https://*.example.org` or `*`. Spans are made by the `tracer_provider`, or by OpenTelemetry's
    global one where the application has set it before the hub opens.
    Use it as `FastAPI(lifespan=hub.lifespan)`, or as `async with hub:` inside another lifespan. Raises
    ConfigurationError for arguments that cannot work.
    """

    def connect(
        self,
        websocket: WebSocket,
        *,
        user: str | Identity = "",
        info: Any = None,
        protocol: Protocol[Any] = PLAIN,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
        token: IssuedToken | None = None,
    ) -> HubConnection:
        """Take a WebSocket over: `async with hub.connect(websocket, user=…) as connection`.

        Accepts the WebSocket unless the endpoint has. Over a connection limit the client is refused so that it can read
        why: with HTTP 503 and Retry-After in the handshake, or, for a browser, with close code 1013. Inside the block,
        a client that goes away ends the iteration and is no error. An outage of the store ends the connection with
        1013, and the client may come back. Any other exception propagates, as in any endpoint; the client gets 1011, or
        the answer of your exception handler. A `token` that `revoke` has ended is refused with 403. The `user` may be
        an `Identity`, as `JwtIdentity` returns it: the connection ends when that expires.
        """
        if not isinstance(websocket, WebSocket):
            raise ConfigurationError(
                f"hub.connect got {shown(websocket)}; give it the `websocket: WebSocket` of an @app.websocket endpoint"
            )
        if not isinstance(protocol, Protocol):
            raise ConfigurationError(
                f"protocol={shown(protocol)} is none; write tidewire.RECOVERABLE or tidewire.PlainProtocol()"
            )
        check_is(subprotocol, str, "subprotocol", 'the one that you choose, as "chat"')
        check_is(token, IssuedToken, "token", "IssuedToken(jti, iat), from tidewire.messages")
        self._book.overrides.see(websocket.scope.get("app"))
        if not isinstance(user, str | Identity):
            check_text(user, "user")  # a mistake of the program: nothing is told to the client
        given = user if isinstance(user, Identity) else Identity(user, token=token)
        acceptance = Acceptance(
            self.node,
            websocket,
            user=connecting_user(given.user),
            info=given.info if info is None else encode_json(info),
            protocol=protocol,
            subprotocol=subprotocol,
            headers=None if headers is None else headers_from(headers),
            origins=self.origins,
            token=token or given.token,
        )
        return HubConnection(self.node, acceptance, expires_at=given.expires_at)
