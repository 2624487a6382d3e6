"""Clients of other protocols, and requests without an upgrade: one sentence tells them which protocols are spoken here.

An application that serves such a path itself is left alone: only a request that would get 404 is answered.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from starlette.routing import BaseRoute, Match

from tidewire.support.refusals import note_handshake

__all__ = ("ForeignClients", "answer_unknown", "protocol_of")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]

#: By a subprotocol of the handshake; by the path; by the names of a query, where the path is anybody's.
_SUBPROTOCOLS = {
    "graphql-ws": "GraphQL",
    "graphql-transport-ws": "GraphQL",
    "mqtt": "MQTT",
    "mqttv3.1": "MQTT",
    "v10.stomp": "STOMP",
    "v11.stomp": "STOMP",
    "v12.stomp": "STOMP",
    "actioncable-v1-json": "Action Cable",
    "wamp.2.json": "WAMP",
}
_PATHS = (
    (re.compile(r"/(socket|engine)\.io(/|$)"), "Socket.IO"),
    (re.compile(r"^/apps/[^/]+/(events|batch_events|channels|users)\b"), "Pusher"),
    (re.compile(r"/(pusher|broadcasting)/(auth|user-auth)$"), "Pusher"),
    (re.compile(r"/negotiate$"), "SignalR"),
    (re.compile(r"/graphql$"), "GraphQL"),
    (re.compile(r"/mqtt$"), "MQTT"),
    (re.compile(r"/socket/websocket$"), "Phoenix Channels"),
    (re.compile(r"/cable$"), "Action Cable"),
    (re.compile(r"/sockjs(/|$)"), "SockJS"),
    (re.compile(r"/\.well-known/mercure$"), "Mercure"),
)
_UPGRADE = b"this address speaks WebSocket; connect to it with a WebSocket client, by ws:// or wss://\n"
_QUERIES = ((b"EIO=", "Socket.IO"), (b"negotiateVersion=", "SignalR"), (b"protocol=7", "Pusher"))


def protocol_of(scope: Scope) -> str:
    """Return the name of the protocol that the client of a request speaks, "" where it may be any."""
    for subprotocol in scope.get("subprotocols", ()):
        if subprotocol in _SUBPROTOCOLS:
            return _SUBPROTOCOLS[subprotocol]
    for name, protocol in _QUERIES:
        if name in scope.get("query_string", b""):
            return protocol
    path: str = scope["path"]
    return next((protocol for pattern, protocol in _PATHS if pattern.search(path)), "")


def _explain(protocol: str, scope: Scope) -> bytes:
    """Return the sentence for a foreign client, and note it."""
    text = (
        f"{protocol} is not spoken here: this server speaks WebSocket, server-sent events and the Centrifuge protocol "
        "(at /connection/websocket); `tidewire docs howto/other-clients` names the alternatives"
    )
    note_handshake(scope, "foreign_client", f"a client of {protocol} came to {scope['path'][:100]!r}")
    return f"{text}\n".encode()


def _is_unknown(scope: Scope) -> bool:
    """Return whether no route was taken. Starlette names the router, and the endpoint if there is one.

    That of a mounted application has routes of its own, none of which was taken.
    """
    return "router" in scope and hasattr(scope.get("endpoint", scope["router"]), "routes")


def answer_unknown(scope: Scope) -> Answer | None:
    """Return the answer to a handshake that the application refused because it has no such path.

    None where it has refused for another reason.
    """
    if not _is_unknown(scope):
        return None
    protocol = protocol_of(scope)
    body = _explain(protocol, scope) if protocol else b"no WebSocket is served at this path\n"
    return 404, [(b"content-type", b"text/plain; charset=utf-8")], body


class ForeignClients:
    """An ASGI middleware that puts a sentence into a 404: for a foreign client; 426 where a WebSocket is served."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request or a WebSocket."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        protocol = protocol_of(scope)
        is_watched = protocol or scope["method"] in ("GET", "HEAD")
        return self._watch(protocol, scope, receive, send) if is_watched else self._app(scope, receive, send)

    async def _watch(self, protocol: str, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def answer(event: Any) -> None:
            nonlocal is_answered
            if event["type"] == "http.response.start" and event["status"] == 404 and _is_unknown(scope):
                found = (404, [], _explain(protocol, scope)) if protocol else _upgrade(scope)
                if found is not None:
                    is_answered = True
                    await _send(found, scope, send)
            if not is_answered:
                await send(event)

        await self._app(scope, receive, answer)


async def _send(answer: Answer, scope: Scope, send: Send) -> None:
    status, headers, body = answer
    body = b"" if scope["method"] == "HEAD" else body
    headers = [*headers, (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _upgrade(scope: Scope) -> Answer | None:
    """Return the answer to a request without an upgrade at a path that serves WebSockets, None elsewhere."""
    if scope["method"] not in ("GET", "HEAD") or not _serves_websocket(scope["router"].routes, scope):
        return None
    return 426, [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")], _UPGRADE


def _serves_websocket(routes: Iterable[BaseRoute], scope: Scope) -> bool:
    asked = {**scope, "type": "websocket", "root_path": scope.get("app_root_path", scope.get("root_path", ""))}
    for route in routes:
        match, found = route.matches(asked)
        if match is not Match.NONE:
            inner = getattr(route, "routes", None)
            if inner is None or _serves_websocket(
                inner, {**asked, **found, "app_root_path": found.get("root_path", "")}
            ):
                return True
    return False
