"""How a WebSocket becomes a connection of the node, and ends: one `async with` for every kind of endpoint."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from copy import copy
from types import TracebackType
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.websockets import WebSocket, WebSocketState

from tidewire.channels import check_user
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, ConnectionClosed, Disconnect, LimitExceeded, StoreUnavailable
from tidewire.links.asgi import CLOSE_SECONDS, AsgiLink
from tidewire.links.base import Link
from tidewire.links.server_pings import pings_for
from tidewire.messages import IssuedToken
from tidewire.protocols.base import Protocol
from tidewire.protocols.close_codes import (
    INTERNAL_ERROR,
    NORMAL,
    POLICY,
    REVOKED,
    SHUTDOWN,
    STORE_AWAY,
    TOO_MANY,
    close_reason,
)
from tidewire.sessions.endings import Ending, has_handler, judge
from tidewire.sessions.newcomers import admit
from tidewire.sessions.origins import Origins
from tidewire.support.refusals import mark_noted, note_handshake

__all__ = ("Acceptance", "choose_subprotocol")

logger = logging.getLogger("tidewire")

#: Seconds for a close to be sent when the server has cancelled the application.
_CANCELLED_SECONDS = 1.0
#: Seconds for which the handshake's answer is held back at most.
_CORK_SECONDS = 0.1


class Acceptance:
    """A WebSocket that is accepted for the time of an `async with` block, which is given its connection.

    A client whose protocol `speaks_first` is answered at once: it has to ask before it is subscribed to anything. One
    whose protocol has pings of its own is sent no others.

    Entering raises starlette's HTTPException (403 for a foreign origin or a revoked token, 503 over a limit) or
    WebSocketException (1013), which FastAPI turns into an answer that the client can read. Inside the block the
    WebSocket itself neither receives nor sends: it would be a second reader, and overtake waiting messages. At the end
    of the block the connection ends, unless it was given to `hold`; other exceptions go on (`endings.judge`).
    """

    __slots__ = (
        "_connection",
        "_has_pings",
        "_headers",
        "_info",
        "_is_held",
        "_node",
        "_origins",
        "_protocol",
        "_socket",
        "_speaks_first",
        "_token",
        "_user",
    )

    def __init__(
        self,
        node: Node,
        websocket: WebSocket,
        *,
        user: str,
        protocol: Protocol[Any],
        origins: Origins,
        subprotocol: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] | None = None,
        info: bytes = b"",
        token: IssuedToken | None = None,
        speaks_first: bool = False,
        has_pings: bool = False,
    ) -> None:
        self._node = node
        self._socket = websocket
        self._user = user
        self._protocol = protocol
        self._origins = origins
        # a client must fail a connection with a subprotocol that it has not asked for (RFC 6455 section 4.1)
        self._headers = subprotocol if subprotocol in websocket.scope.get("subprotocols", ()) else None, headers
        self._info = info
        self._token = token
        self._speaks_first = speaks_first
        self._has_pings = has_pings
        self._connection: Connection | None = None
        self._is_held = False

    async def __aenter__(self) -> Connection:
        meter = self._node.meter
        return await (self._enter() if meter is None else meter.handshake("websocket", self._enter()))

    async def _enter(self) -> Connection:
        node, websocket = self._node, self._socket
        client = websocket.client
        address = client.host if client else ""
        if not self._origins.allows(websocket):
            note_handshake(websocket.scope, "origin", "a page of a foreign origin wants to connect", user=self._user)
            raise _denial(websocket, 403, "this origin may not connect", {})
        try:
            user = check_user(self._user)
            if node.is_revoked(user, self._token):
                note_handshake(websocket.scope, "revoked", REVOKED.reason, user=user)
                raise _denial(websocket, 403, REVOKED.reason, {})
            async with admit(node, user, address) as newcomer:
                own = _copy(websocket)
                link = await self._open_link(own)
                connection = Connection(link, self._protocol, user=user, address=address, limits=node.limits)
                newcomer.becomes(connection)
                websocket.client_state = websocket.application_state = WebSocketState.DISCONNECTED
        except LimitExceeded as error:
            mark_noted(websocket.scope)
            raise await _refusal(websocket, error) from None
        except BadRequest as error:  # a name that no store can keep: an endpoint may have it from its client
            note_handshake(websocket.scope, "bad_request", str(error))
            raise await _refused_name(websocket, self._protocol, error) from None
        connection.opened_with(self._token)
        self._connection = connection
        await self._attach(connection)  # counts it before it first waits: a newcomer is never counted twice
        if node.is_revoked(user, self._token):  # while it was accepted
            connection.end(REVOKED)
        return connection

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        connection, self._connection = self._connection, None
        if connection is None or (exc is None and self._is_held):
            return False
        ending = Ending(NORMAL) if exc is None else judge(exc, has_ended=connection.is_closed)
        if ending.failed:
            connection.fail()
        if ending.answer is not None and not connection.is_closed:
            self._node.send(connection, connection.protocol.encode_error(ending.answer))
        if ending.error is not None and connection.ending is None and has_handler(self._socket.scope, ending.error):
            await self._give_back(connection)
        else:
            await _discard(self._node, connection, ending.disconnect, is_cancelled=ending.disconnect is SHUTDOWN)
        if ending.error is None or ending.error is exc:
            return ending.error is None
        raise ending.error from exc

    async def hold(self) -> None:
        """Keep the connection after the block: its listener serves it until it ends."""
        if self._connection is not None:
            self._is_held = True
            await self._connection.link.keep_open()

    async def _open_link(self, websocket: WebSocket) -> Link:
        """Accept a WebSocket, unless the endpoint has.

        Unless it speaks first, the client has its answer when the first subscribe is done, or something is sent, or the
        endpoint waits for it: a client that is connected misses nothing that is published from then on.
        """
        limits, (subprotocol, headers) = self._node.limits, self._headers
        link: object = websocket.scope.get("extensions", {}).get("tidewire.link")
        is_accepted = websocket.application_state is not WebSocketState.CONNECTING
        opened: Link
        if isinstance(link, Link):
            opened = link
            if self._has_pings:
                opened.stop_pings()
            if is_accepted:
                return opened
            if not self._speaks_first:
                opened.cork()
            try:
                await websocket.accept(subprotocol, headers)
            except OSError:
                pass  # the client has gone already; its link says so as soon as something listens
        else:
            pings = None if self._has_pings else pings_for(websocket.scope, limits)
            if is_accepted:
                return AsgiLink(websocket.receive, websocket.send, limits, pings=pings)
            if websocket.client_state is WebSocketState.CONNECTING:
                await websocket.receive()
            event = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers or ())}
            opened = AsgiLink(websocket.receive, websocket.send, limits, accept=event, pings=pings)
        if self._speaks_first:
            opened.uncork()
        else:
            asyncio.get_running_loop().call_later(_CORK_SECONDS, opened.uncork)
        return opened

    async def _attach(self, connection: Connection) -> None:
        try:
            await self._node.attach(connection, self._info)
        except ConnectionClosed:
            pass  # the next to receive is told
        except StoreUnavailable:
            connection.end(STORE_AWAY)
        except BadRequest as error:  # a name that no store can keep: its client's, which need not come again
            logger.warning("a connection ends with code %d: %s", POLICY.code, error)
            disconnect = Disconnect(POLICY.code, close_reason(str(error)), reconnect=False)
            self._node.send(connection, connection.protocol.encode_error(error))
            await _discard(self._node, connection, disconnect, is_cancelled=False)
            raise WebSocketException(POLICY.code, disconnect.reason) from None
        except BaseException as error:
            is_cancelled = not isinstance(error, Exception)
            await _discard(self._node, connection, INTERNAL_ERROR, is_cancelled=is_cancelled)
            raise

    async def _give_back(self, connection: Connection) -> None:
        """Leave the WebSocket to the application's handler of an exception, which closes it, as without a hub."""
        self._node.detach(connection)
        if isinstance(connection.link, AsgiLink):
            await connection.link.release(CLOSE_SECONDS)
        self._socket.client_state = self._socket.application_state = WebSocketState.CONNECTED


def _copy(websocket: WebSocket) -> WebSocket:
    """Return another object for the same WebSocket: a change of state of one does not show in the other."""
    if type(websocket) is not WebSocket:
        return copy(websocket)
    own = WebSocket.__new__(WebSocket)  # as `copy` does, in a tenth of its time
    vars(own).update(vars(websocket))
    return own


async def _discard(node: Node, connection: Connection, disconnect: Disconnect, *, is_cancelled: bool) -> None:
    """End a connection; a cancelled caller's server does not wait for its client's answer."""
    connection.end(SHUTDOWN if is_cancelled else disconnect)
    node.detach(connection)
    if isinstance(connection.link, AsgiLink):
        await connection.link.aclose(_CANCELLED_SECONDS if is_cancelled else CLOSE_SECONDS)


async def _refusal(websocket: WebSocket, error: LimitExceeded) -> Exception:
    """Return the refusal of a full server: 503 in the handshake, 1013 to a browser, which cannot read that."""
    if websocket.application_state is WebSocketState.CONNECTING:
        if "origin" not in websocket.headers:
            return _denial(websocket, 503, str(error), {"Retry-After": str(random.randint(2, 10))})
        await websocket.accept()
    return WebSocketException(TOO_MANY.code, TOO_MANY.reason)


async def _refused_name(websocket: WebSocket, protocol: Protocol[Any], error: BadRequest) -> Exception:
    """Return the refusal of a name: 400 in the handshake; to a browser, which cannot read that, an answer and 1008."""
    if websocket.application_state is WebSocketState.CONNECTING:
        if "origin" not in websocket.headers:
            return _denial(websocket, 400, str(error), {})
        await websocket.accept()
    answer = protocol.encode_error(error)
    await (websocket.send_bytes(answer.data) if answer.binary else websocket.send_text(answer.data.decode()))
    return WebSocketException(POLICY.code, close_reason(str(error)))


def _denial(websocket: WebSocket, status: int, text: str, headers: dict[str, str]) -> Exception:
    is_open = websocket.application_state is not WebSocketState.CONNECTING
    if not is_open and "websocket.http.response" in websocket.scope.get("extensions", {}):
        return HTTPException(status, text, headers)
    return WebSocketException(1008, close_reason(text))  # before accept, the server makes it a plain 403


def choose_subprotocol(asked: Sequence[str], offered: Sequence[str]) -> str | None:
    """Return the first that the client asks for and the server has (RFC 6455 section 4.2.2), or None."""
    return next((name for name in asked if name in offered), None)
