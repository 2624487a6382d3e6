"""A route that serves a whole protocol: no coroutine of the application waits while its connection is idle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from tidewire.dispatch import Dispatcher
from tidewire.endpoint import accept
from tidewire.errors import INTERNAL_ERROR, TidewireError
from tidewire.options import check_channel
from tidewire.protocols.base import Protocol

if TYPE_CHECKING:  # the hub makes its endpoints
    from tidewire.fastapi import Hub

__all__ = ("ServedEndpoint",)


class ServedEndpoint:
    """An ASGI application for WebSockets: accepts, follows the route's channel, and hands over to the dispatcher."""

    __slots__ = ("_authenticate", "_history", "_hub", "_protocol")

    def __init__(
        self,
        hub: Hub,
        protocol: Protocol[Any],
        *,
        authenticate: Callable[[WebSocket], Awaitable[str]] | None,
        history: int,
    ) -> None:
        self._hub = hub
        self._protocol = protocol
        self._authenticate = authenticate
        self._history = history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        node = self._hub.node
        user = await self._authenticate(websocket) if self._authenticate is not None else ""
        channel = websocket.path_params.get("channel", "")
        if channel:
            check_channel(channel, node.limits)
        subprotocol = self._protocol.subprotocol
        if subprotocol not in websocket.scope.get("subprotocols", ()):
            subprotocol = None
        connection = await accept(
            node,
            websocket,
            user=user,
            protocol=self._protocol,
            origins=self._hub.origins,
            subprotocol=subprotocol,
        )
        try:
            if channel:
                await node.subscribe(connection, channel, history=self._history)
            Dispatcher(node, connection, channel)
        except TidewireError:
            connection.end(INTERNAL_ERROR)
        await connection.link.hold()
