"""The WebSocket route of the Centrifuge protocol: JSON, or Protobuf for clients that offer it."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.websockets import WebSocket

from tidewire.engine.node import Node
from tidewire.protocols.centrifuge.encoding import CentrifugeJson, CentrifugeProtobuf, CentrifugeProtocol
from tidewire.rules.base import Authority, Identity
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.centrifuge.session import Session
from tidewire.sessions.origins import Origins

__all__ = ("JSON", "PROTOBUF", "choose_protocol", "serve_websocket")

#: The instances that connections share.
JSON = CentrifugeJson()
PROTOBUF = CentrifugeProtobuf()


async def serve_websocket(
    node: Node,
    authority: Authority,
    websocket: WebSocket,
    *,
    origins: Origins,
    identity: Identity | None = None,
) -> None:
    """Accept a WebSocket and serve the protocol on it until it ends; raises as entering an `Acceptance` does."""
    protocol, subprotocol = choose_protocol(websocket)
    user = identity.user if identity is not None else ""
    pings = _query(websocket, b"cf_ws_frame_ping_pong").get("cf_ws_frame_ping_pong") != "true"
    acceptance = Acceptance(
        node,
        websocket,
        user=user,
        protocol=protocol,
        origins=origins,
        subprotocol=subprotocol,
        speaks_first=True,
        has_pings=pings,
    )
    async with acceptance as connection:
        Session(node, authority, connection, identity=identity, pings=pings).start()
        await acceptance.hold()


def choose_protocol(websocket: WebSocket) -> tuple[CentrifugeProtocol, str | None]:
    """Return the encoding, and the subprotocol to select; an empty name that was offered is never echoed."""
    offered = websocket.scope.get("subprotocols", ())
    if PROTOBUF.subprotocol in offered:
        return PROTOBUF, PROTOBUF.subprotocol
    query = _query(websocket, b"protobuf")
    if "protobuf" in (query.get("format"), query.get("cf_protocol")):
        return PROTOBUF, None
    return JSON, JSON.subprotocol if JSON.subprotocol in offered else None


def _query(websocket: WebSocket, word: bytes) -> dict[str, str]:
    """Return the parameters of a query that may have a word in it; most have not, and need not be parsed."""
    query: bytes = websocket.scope["query_string"]
    if word not in query and b"%" not in query:
        return {}
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
