"""Every endpoint of the Centrifuge protocol as one FastAPI router."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.websockets import WebSocket

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import CommandError, ConnectionClosed, Rejected
from tidewire.links.stream import BINARY, EVENTS, FIELDS, LINES, Framing
from tidewire.messages import Position
from tidewire.protocols.centrifuge.codes import BAD_COMMAND, STALE
from tidewire.protocols.centrifuge.encoding import CentrifugeJson, CentrifugeProtobuf, CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import ConnectRequest, EmulationRequest
from tidewire.protocols.centrifuge.protobuf import decode_message
from tidewire.protocols.json_text import decode_leniently
from tidewire.rules.base import Authority, Identity
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.centrifuge.emulation import Emulation
from tidewire.sessions.centrifuge.identify import Identify, Name, identified_by
from tidewire.sessions.centrifuge.session import Session
from tidewire.sessions.centrifuge.streaming import (
    StreamedSession,
    TooLarge,
    cors_headers,
    is_binary,
    preflight,
    read_body,
    stream_head,
)
from tidewire.sessions.centrifuge.unidirectional import EventProtocol, connect_frame, parse_request
from tidewire.sessions.centrifuge.websocket_route import JSON, PROTOBUF, choose_protocol, serve_websocket
from tidewire.sessions.origins import Origins
from tidewire.support.counters import count_limit
from tidewire.support.refusals import note_handshake

__all__ = ("ClientEndpoints", "client_router")

#: The query parameter in which a browser's EventSource, which sends no body, brings its request.
_CONNECT = "cf_connect"
#: The one in which a page that opens another EventSource brings the last event's id, which it cannot send as a header.
_LAST_EVENT = "last_event_id"
_UI = Path(__file__).parents[2] / "server" / "ui"


def client_router(
    node: Callable[[], Node],
    authority: Authority,
    *,
    origins: Origins,
    user: Callable[..., Any] | None = None,
    name: Name | None = None,
    see: Callable[[Any], None],
    json_depth: int,
) -> APIRouter:
    """Make the routes `/connection/…` and `/emulation`; `Hub.client_router` describes the arguments."""
    endpoints = ClientEndpoints(node, authority, origins=origins, json_depth=json_depth)
    router = APIRouter(include_in_schema=False)
    identify = identified_by(user, name, see, unmet=(Request, WebSocket))

    async def websocket(websocket: WebSocket) -> None:
        await serve_websocket(node(), authority, websocket, origins=origins, identity=await identify(websocket))

    async def uni_websocket(websocket: WebSocket) -> None:
        await endpoints.uni_websocket(websocket, await identify(websocket))

    router.add_api_websocket_route("/connection/websocket", websocket, name="tidewire:websocket")
    router.add_api_websocket_route("/connection/uni_websocket", uni_websocket)
    for path in ("websocket", "uni_websocket"):
        router.add_api_route(f"/connection/{path}", _upgrade_required, methods=["GET", "HEAD"])
    streams = {
        "http_stream": (endpoints.http_stream, ["POST"]),
        "sse": (endpoints.sse, ["GET", "HEAD", "POST"]),
        "uni_http_stream": (endpoints.uni_http_stream, ["POST"]),
        "uni_sse": (endpoints.uni_sse, ["GET", "HEAD", "POST"]),
    }
    for path, (serve, methods) in streams.items():
        router.add_api_route(
            f"/connection/{path}", _endpoint(serve, identify), methods=methods, name=f"tidewire:{path}"
        )
        router.add_api_route(f"/connection/{path}", endpoints.preflight, methods=["OPTIONS"])
    router.add_api_route("/connection/tidewire.js", _module, methods=["GET", "HEAD"])
    router.add_api_route("/connection/tidewire.d.ts", _declarations, methods=["GET", "HEAD"])
    router.add_api_route("/connection/tidewire.css", _look, methods=["GET", "HEAD"])
    router.add_api_route("/emulation", endpoints.emulation, methods=["POST"])
    router.add_api_route("/emulation", endpoints.preflight, methods=["OPTIONS"])
    return router


async def _upgrade_required() -> Response:
    """Answer a request that a proxy, or a person, sends to a WebSocket's path without an upgrade."""
    text = "this address speaks WebSocket; connect to it with a WebSocket client, by ws:// or wss://\n"
    return PlainTextResponse(text, 426, {"Upgrade": "websocket", "Connection": "Upgrade"})


async def _module() -> Response:
    """Give a page the client that needs no bundler; it is asked for again each time, and answered by its ETag."""
    return FileResponse(_UI / "tidewire.js", media_type="text/javascript", headers={"Cache-Control": "no-cache"})


async def _look() -> Response:
    """Give a page the look of the server's own ones: colours for light and dark, type, and controls."""
    return FileResponse(_UI / "css" / "base.css", media_type="text/css", headers={"Cache-Control": "no-cache"})


async def _declarations() -> Response:
    """Give a developer the types of that client."""
    path = _UI / "tidewire.d.ts"
    return FileResponse(path, media_type="text/plain", headers={"Cache-Control": "no-cache"})


def _endpoint(
    serve: Callable[[Request, Identity | None], Awaitable[Response]], identify: Identify
) -> Callable[..., Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await serve(request, await identify(request))

    return endpoint


class ClientEndpoints:
    """The work of the routes, for one node and one authority."""

    def __init__(self, node: Callable[[], Node], authority: Authority, *, origins: Origins, json_depth: int) -> None:
        self._node = node
        self._authority = authority
        self._origins = origins
        self._depth = json_depth
        self._pushes = CentrifugeJson(one_way=True, json_depth=json_depth)
        self._binary_pushes = CentrifugeProtobuf(one_way=True, json_depth=json_depth)

    # Streams of clients that speak by other requests.

    async def http_stream(self, request: Request, identity: Identity | None) -> Response:
        """Answer with an endless body of replies."""
        first = await self._body(request)
        protocol, framing = (PROTOBUF, BINARY) if is_binary(request) else (JSON, LINES)
        return self._session(request, protocol, framing, first, identity)

    async def sse(self, request: Request, identity: Identity | None) -> Response:
        """Answer with server-sent events, each a reply."""
        first = await self._asked(request)
        if not first:
            raise self._refusal(request, 400, f"send the connect command as {_CONNECT}=…, or in the body of a POST")
        return self._session(request, JSON, EVENTS, first, identity)

    async def emulation(self, request: Request) -> Response:
        """Take commands of a client that listens to a stream: 204, or 400, 404, 413, 429, 503."""
        body, binary = await self._body(request), is_binary(request)
        try:
            asked = decode_message(EmulationRequest, body) if binary else decode_leniently(_decode, body)
            data = bytes(asked.data) if binary else msgspec.json.decode(asked.data, type=str)
        except (msgspec.MsgspecError, UnicodeDecodeError, Rejected, RecursionError):
            raise self._refusal(request, 400, 'send {"session": …, "node": …, "data": …}') from None
        status = await Emulation.of(self._node()).deliver(asked.node, asked.session, data)
        return Response(status_code=status, headers=cors_headers(request, self._origins))

    # Streams of clients that only listen.

    async def uni_http_stream(self, request: Request, identity: Identity | None) -> Response:
        """Answer with an endless body of pushes."""
        body, binary = await self._body(request), is_binary(request)
        first = self._first(request, body, binary=binary)
        protocol, framing = (self._binary_pushes, BINARY) if binary else (self._pushes, LINES)
        return self._session(request, protocol, framing, connect_frame(first, binary=binary), identity)

    async def uni_sse(self, request: Request, identity: Identity | None) -> Response:
        """Answer with server-sent events, each a push, which name the positions from which they can go on."""
        last = request.headers.get("last-event-id") or request.query_params.get(_LAST_EVENT, "")
        first = self._first(request, await self._asked(request), last_event_id=last)
        places = {name: Position(sub.offset, sub.epoch) for name, sub in first.subs.items() if sub.recover}
        protocol = EventProtocol(places, json_depth=self._depth)
        return self._session(request, protocol, FIELDS, connect_frame(first), identity)

    async def uni_websocket(self, websocket: WebSocket, identity: Identity | None) -> None:
        """Push over a WebSocket whose first message, or query parameter `cf_connect`, is the connect request."""
        chosen, subprotocol = choose_protocol(websocket)
        binary = chosen is PROTOBUF
        protocol = self._binary_pushes if binary else self._pushes
        node, user = self._node(), identity.user if identity is not None else ""
        acceptance = Acceptance(
            node,
            websocket,
            user=user,
            protocol=protocol,
            origins=self._origins,
            subprotocol=subprotocol,
            speaks_first=True,
            has_pings=True,
        )
        async with acceptance as connection:
            first = await self._first_message(connection, websocket.query_params.get(_CONNECT, ""), binary=binary)
            if first is not None:
                while connection.receive_nowait() is not None:
                    pass  # a client that only listens sends its connect request alone
                Session(node, self._authority, connection, identity=identity).start()
                connection.message_received(connect_frame(first, binary=binary))
            await acceptance.hold()

    async def _first_message(self, connection: Connection, asked: str, *, binary: bool) -> ConnectRequest | None:
        """Return the connect request of the query, or wait for that of the first message.

        None when the connection has ended, or ends because of a message that is none.
        """
        try:
            if asked:
                return parse_request(asked.encode(errors="replace"), depth=self._depth)
            async with asyncio.timeout(self._node().limits.auth_seconds):
                message = await connection.receive()
            data = message.encode(errors="replace") if isinstance(message, str) else message
            return parse_request(data, binary=binary, depth=self._depth)
        except TimeoutError:
            count_limit("auth_seconds")
            connection.end(STALE)
        except CommandError:
            connection.end(BAD_COMMAND)
        except ConnectionClosed:
            pass
        return None

    # Shared by them.

    async def preflight(self, request: Request) -> Response:
        """Answer a browser that asks whether its page may ask."""
        return preflight(request, self._origins)

    def _session(
        self,
        request: Request,
        protocol: CentrifugeProtocol,
        framing: Framing,
        first: str | bytes,
        identity: Identity | None,
    ) -> Response:
        headers = cors_headers(request, self._origins)
        if request.method == "HEAD":
            return stream_head(framing, headers)
        return StreamedSession(
            self._node(), self._authority, protocol, framing, first, identity=identity, headers=headers
        )

    async def _body(self, request: Request) -> bytes:
        if not self._origins.allows(request):
            note_handshake(request.scope, "origin", "a page of a foreign origin wants to connect")
            raise HTTPException(403, "this origin may not connect")
        try:
            return await read_body(request, self._node())
        except TooLarge as error:
            raise self._refusal(request, 413, str(error)) from None
        except ClientDisconnect:  # nobody reads this, and it is no fault of the application that the log would show
            raise self._refusal(request, 400, "the client disconnected before its request was complete") from None

    async def _asked(self, request: Request) -> bytes:
        """Return the request of an event stream's client, from the query: a browser's EventSource sends no body."""
        return await self._body(request) or request.query_params.get(_CONNECT, "").encode(errors="replace")

    def _first(self, request: Request, data: bytes, *, binary: bool = False, last_event_id: str = "") -> ConnectRequest:
        try:
            return parse_request(data, binary=binary, depth=self._depth, last_event_id=last_event_id)
        except CommandError as error:
            raise self._refusal(request, 400, str(error)) from None

    def _refusal(self, request: Request, status: int, text: str) -> HTTPException:
        """Return a refusal of a request that a page of an allowed origin can read."""
        return HTTPException(status, text, cors_headers(request, self._origins))


_decode = msgspec.json.Decoder(EmulationRequest).decode
