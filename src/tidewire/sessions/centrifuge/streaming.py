"""Sessions over the endless response of a request: judged as WebSockets are, refused so that clients can read it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, CommandError, LimitExceeded
from tidewire.links.server_exit import ServerExit
from tidewire.links.stream import HEADERS, Framing, StreamLink
from tidewire.messages import WireMessage
from tidewire.protocols.centrifuge import codes
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.close_codes import TOO_MANY
from tidewire.rules.base import Authority, Identity
from tidewire.sessions.centrifuge.emulation import Emulation
from tidewire.sessions.centrifuge.session import Session
from tidewire.sessions.centrifuge.unidirectional import EventProtocol
from tidewire.sessions.newcomers import admit
from tidewire.sessions.origins import Origins
from tidewire.support.counters import count_limit
from tidewire.support.refusals import note_handshake

__all__ = ("StreamedSession", "TooLarge", "cors_headers", "is_binary", "preflight", "read_body", "stream_head")

#: Milliseconds after which a browser's EventSource comes back by itself, at least and at most: not all at once.
_RETRY = (1_000, 5_000)
#: Seconds for which a browser remembers that it may ask.
_PREFLIGHT_SECONDS = 7_200


class TooLarge(LimitExceeded):
    """The body of a request is larger than a message may be."""


async def read_body(request: Request, node: Node) -> bytes:
    """Return the body of a request; raises TooLarge."""
    most = node.limits.message_size
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            count_limit("message_size")
            raise TooLarge(f"the body has more than {most} bytes; send less at a time")
    return body


def is_binary(request: Request) -> bool:
    """Return whether a request speaks Protobuf."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/octet-stream"


def cors_headers(request: Request, origins: Origins) -> dict[str, str]:
    """Return headers that let a page of another origin, judged before, read the answer (WHATWG Fetch section 3.2)."""
    origin = request.headers.get("origin")
    if origin is None:
        return {}
    headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    # where any origin may connect, browsers send no cookies along
    return headers if origins.allows_any else {**headers, "Access-Control-Allow-Credentials": "true"}


def preflight(request: Request, origins: Origins) -> Response:
    """Answer a browser that asks whether its page may ask."""
    headers = cors_headers(request, origins) if origins.allows(request) else {}
    if headers:
        headers |= {
            "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
            "Access-Control-Allow-Headers": request.headers.get("access-control-request-headers", "content-type"),
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        }
    return Response(status_code=204, headers=headers)


def stream_head(framing: Framing, headers: Mapping[str, str]) -> Response:
    """Return the head of a stream without the stream: a monitor, or a proxy, asks with HEAD."""
    more = {name.decode(): value.decode() for name, value in HEADERS}
    answer = Response(headers={**headers, **more}, media_type=framing.media_type)
    del answer.headers["content-length"]
    return answer


class StreamedSession(Response):
    """A response that lasts as long as its session.

    `first` is the frame that the client sent along. Over a limit on connections it is a plain 503, or in an event
    stream a disconnect: a browser's EventSource gives up at a 503.
    """

    def __init__(
        self,
        node: Node,
        authority: Authority,
        protocol: CentrifugeProtocol,
        framing: Framing,
        first: str | bytes,
        *,
        identity: Identity | None,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers=dict(headers))
        self._node = node
        self._authority = authority
        self._protocol = protocol
        self._is_events = framing.media_type == "text/event-stream"
        if self._is_events:
            # a field of the first event: some clients take a block of its own for an empty event
            retry = b"retry: %d\n" % random.randint(*_RETRY)
            framing = msgspec.structs.replace(framing, first=framing.first + retry)
        self._framing = framing
        self._first = first
        self._identity = identity
        self._cors_headers = dict(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        node, request = self._node, Request(scope)
        address = request.client.host if request.client else ""
        server = scope.get("extensions", {}).get("tidewire.stream")
        link = StreamLink(
            receive,
            send,
            node.limits,
            self._framing,
            last_message=self._last_message,
            headers=self._cors_headers,
            server=server,
        )
        work, meter = self._enter(link, address), node.meter
        try:
            connection = await (work if meter is None else meter.handshake("stream", work))
        except (BadRequest, LimitExceeded) as error:
            await self._refuse(error, link, scope, receive, send)
            return

        def end() -> None:
            _end_some_time(connection, node.limits.drain_seconds)

        exiting = ServerExit.of(asyncio.get_running_loop())
        if server is not None:
            server.on_shutdown = end
        else:
            exiting.watch(end)
        Emulation.of(node)
        Session(node, self._authority, connection, identity=self._identity, emulated=True).start()
        connection.message_received(self._first)
        try:
            await link.keep_open()
        finally:
            if server is not None:
                server.on_shutdown = None
            exiting.unwatch(end)

    async def _enter(self, link: StreamLink, address: str) -> Connection:
        node = self._node
        async with admit(node, self._identity.user if self._identity is not None else "", address) as newcomer:
            connection = Connection(link, self._protocol, user="", address=address, limits=node.limits)
            newcomer.becomes(connection)
        await node.attach(connection)
        return connection

    def _last_message(self, code: int, reason: str) -> WireMessage:
        """Return the last message of the stream; at a shutdown, an EventSource comes back when that is over.

        Another answer meanwhile (a proxy's 502) would be the end of it.
        """
        message = self._protocol.encode_disconnect(code, reason)
        if code != codes.SHUTDOWN.code or not isinstance(self._protocol, EventProtocol):
            return message
        drain = round(self._node.limits.drain_seconds * 1_000)
        return WireMessage(b"retry: %d\n%b" % (drain + random.randint(*_RETRY), message.data))

    async def _refuse(self, error: CommandError, link: StreamLink, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(error, BadRequest):  # a user that no store can keep
            note_handshake(scope, "bad_request", str(error))
            await PlainTextResponse(str(error), 400, self._cors_headers)(scope, receive, send)
            return
        if self._is_events:
            link.close(TOO_MANY.code, TOO_MANY.reason)
            await link.keep_open()
            return
        headers = {**self._cors_headers, "Retry-After": str(random.randint(2, 10))}
        await PlainTextResponse(str(error), 503, headers)(scope, receive, send)


def _end_some_time(connection: Connection, seconds: float) -> None:
    """Drain: not all clients come back in the same moment."""
    asyncio.get_running_loop().call_later(random.random() * seconds, connection.shut_down)
