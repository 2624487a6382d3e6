"""How a WebSocket is taken over: judged by origin and limits, accepted, and attached to the node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.websockets import WebSocket, WebSocketState

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import (
    INTERNAL_ERROR,
    SHUTDOWN,
    STORE_AWAY,
    TOO_MANY,
    ConnectionClosed,
    Disconnect,
    LimitExceeded,
    StoreUnavailable,
    TidewireError,
)
from tidewire.links.asgi import CLOSE_SECONDS, AsgiLink
from tidewire.links.base import Link
from tidewire.protocols.base import Protocol
from tidewire.sessions.origins import Origins

__all__ = ("accept", "choose_subprotocol", "discard")

#: Seconds for a close to be sent when the server has cancelled the application.
_CANCELLED_SECONDS = 1.0
#: Seconds for which the handshake's answer is held back at most.
_CORK_SECONDS = 1.0


async def accept(
    node: Node,
    websocket: WebSocket,
    *,
    user: str,
    protocol: Protocol[Any],
    origins: Origins,
    subprotocol: str | None = None,
    headers: Iterable[tuple[bytes, bytes]] | None = None,
    info: bytes = b"",
) -> Connection:
    """Judge, accept and attach a WebSocket.

    Raises starlette's HTTPException (403 for a foreign origin, 503 over a limit) or WebSocketException (1013), which
    FastAPI turns into what the client can read.
    """
    _check_origin(websocket, origins)
    address = websocket.client.host if websocket.client else ""
    try:
        async with node.admit(user, address):
            link = await _open_link(node, websocket, subprotocol, headers)
            connection = Connection(link, protocol, user=user, address=address, limits=node.limits)
            # a socket has one reader: what the endpoint would read here is read by the connection
            websocket.receive = websocket.receive_text = _taken_over  # type: ignore[method-assign]
            websocket.receive_bytes = websocket.receive_json = _taken_over  # type: ignore[method-assign]
    except LimitExceeded as error:
        raise await _refusal(websocket, error) from None
    await _attach(node, connection, info)  # counts it before it first waits: a newcomer is never counted twice
    return connection


async def _open_link(
    node: Node, websocket: WebSocket, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]] | None
) -> Link:
    """Accept a WebSocket, unless the endpoint has.

    The client has its answer when the first subscribe is done, or something is sent, or the endpoint waits for it:
    who is connected misses nothing that is published from then on.
    """
    link: object = websocket.scope.get("extensions", {}).get("tidewire.link")
    if websocket.application_state is not WebSocketState.CONNECTING:
        return link if isinstance(link, Link) else AsgiLink(websocket.receive, websocket.send, node.limits)
    opened: Link
    if isinstance(link, Link):
        opened = link
        opened.cork()
        try:
            await websocket.accept(subprotocol, headers)
        except OSError:
            pass  # the client has gone already; its link says so as soon as somebody listens
    else:
        if websocket.client_state is WebSocketState.CONNECTING:
            await websocket.receive()
        event = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers or ())}
        opened = AsgiLink(websocket.receive, websocket.send, node.limits, accept=event)
    asyncio.get_running_loop().call_later(_CORK_SECONDS, opened.uncork)
    return opened


async def _attach(node: Node, connection: Connection, info: bytes) -> None:
    try:
        await node.attach(connection, info)
    except ConnectionClosed:
        pass  # whoever receives is told
    except StoreUnavailable:
        connection.end(STORE_AWAY)
    except BaseException as error:
        await discard(node, connection, INTERNAL_ERROR, cancelled=isinstance(error, asyncio.CancelledError))
        raise


async def discard(node: Node, connection: Connection, disconnect: Disconnect, *, cancelled: bool = False) -> None:
    """End a connection that nobody will use; a cancelled caller's server does not wait for its client's answer."""
    connection.end(SHUTDOWN if cancelled else disconnect)
    node.detach(connection)
    if isinstance(connection.link, AsgiLink):
        await connection.link.aclose(_CANCELLED_SECONDS if cancelled else CLOSE_SECONDS)


async def _taken_over(mode: str = "text") -> Any:
    raise TidewireError("this WebSocket was handed to hub.connect; receive from the connection, not from the websocket")


def _check_origin(websocket: WebSocket, origins: Origins) -> None:
    """Refuse a page of another site (cross-site WebSocket hijacking, RFC 6455 section 10.2)."""
    if not origins.allows(websocket):
        raise _denial(websocket, 403, "this origin may not connect", {})


async def _refusal(websocket: WebSocket, error: LimitExceeded) -> Exception:
    """Return what tells the client of a full server: 503 in the handshake, 1013 to a browser, which can't read that."""
    if websocket.application_state is WebSocketState.CONNECTING:
        if "origin" not in websocket.headers:
            return _denial(websocket, 503, str(error), {"Retry-After": str(random.randint(2, 10))})
        await websocket.accept()
    return WebSocketException(TOO_MANY.code, TOO_MANY.reason)


def _denial(websocket: WebSocket, status: int, text: str, headers: dict[str, str]) -> Exception:
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        return HTTPException(status, text, headers)
    return WebSocketException(1008, text)  # before accept, the server makes it a plain 403


def choose_subprotocol(asked: Sequence[str], offered: Sequence[str]) -> str | None:
    """Return the first that the client asks for and the server has (RFC 6455 section 4.2.2), or None."""
    return next((name for name in asked if name in offered), None)
