"""A route that serves a whole protocol: no coroutine of the application waits while its connection is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import WebSocketException
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from tidewire.channels import open_channel
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import (
    INTERNAL_ERROR,
    STORE_AWAY,
    CommandError,
    ConnectionClosed,
    PermissionDenied,
    StoreUnavailable,
)
from tidewire.protocols.base import Protocol
from tidewire.sessions.accept import accept, discard
from tidewire.sessions.dispatch import Dispatcher
from tidewire.sessions.origins import Origins

__all__ = ("ServedEndpoint",)


class ServedEndpoint:
    """An ASGI application for WebSockets: accepts, follows the route's channel, and hands over to the dispatcher."""

    __slots__ = ("_authenticate", "_history", "_node", "_origins", "_protocol")

    def __init__(
        self,
        node: Callable[[], Node],
        protocol: Protocol[Any],
        *,
        origins: Origins,
        authenticate: Callable[[WebSocket], Awaitable[str]] | None,
        history: int,
    ) -> None:
        self._node = node
        self._protocol = protocol
        self._origins = origins
        self._authenticate = authenticate
        self._history = history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        node = self._node()
        channel = websocket.path_params.get("channel", "")
        if channel:
            _check_route(node, channel)
        user = await self._authenticate(websocket) if self._authenticate is not None else ""
        subprotocol = self._protocol.subprotocol
        if subprotocol not in scope.get("subprotocols", ()):
            subprotocol = None
        connection = await accept(
            node, websocket, user=user, protocol=self._protocol, origins=self._origins, subprotocol=subprotocol
        )
        try:
            await self._begin(node, connection, channel)
            await connection.link.hold()
        except BaseException as error:
            await discard(node, connection, INTERNAL_ERROR, cancelled=isinstance(error, asyncio.CancelledError))
            raise

    async def _begin(self, node: Node, connection: Connection, channel: str) -> None:
        try:
            if channel:
                await node.subscribe(connection, channel, history=self._history)
        except StoreUnavailable:
            connection.end(STORE_AWAY)
        except ConnectionClosed:
            return
        Dispatcher(node, connection, channel)
        connection.link.uncork()


def _check_route(node: Node, channel: str) -> None:
    """Refuse a handshake for a channel that clients may not follow."""
    try:
        open_channel(channel, node.limits)
        if not node.rules.options(channel).subscribe:
            raise PermissionDenied(f"clients do not subscribe to {channel!r}")
    except CommandError as error:
        raise WebSocketException(1008, str(error)[:120]) from None
