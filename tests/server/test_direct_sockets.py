"""The shorter way to WebSockets of the Centrifuge protocol: the same answers, and no search for a route."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match

from tidewire import Hub
from tidewire.server.direct_sockets import DirectSockets


class Watched(BaseRoute):
    """A route that matches nothing, and counts how often it is asked."""

    asked = 0

    def matches(self, scope: Any) -> tuple[Match, Any]:
        self.asked += scope["type"] == "websocket"
        return Match.NONE, {}


def application(hub: Hub) -> tuple[FastAPI, Watched]:
    async def presented(connection: HTTPConnection) -> str:
        if connection.headers.get("x-user") == "eve":
            raise HTTPException(418, "not you", {"X-Why": "eve"})
        return "ann"

    app, watched = FastAPI(), Watched()
    app.router.routes.insert(0, watched)
    clients = hub.client_router(user=presented)
    app.include_router(clients)
    app.add_middleware(DirectSockets, application=app, routes=clients.routes)
    return app, watched


async def connect(app: FastAPI, headers: Mapping[str, str], *, root_path: str = "") -> list[dict[str, Any]]:
    """Connect and leave; return what the application has sent until its call returned."""
    sent: list[dict[str, Any]] = []
    events = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]

    async def receive() -> dict[str, Any]:
        return events.pop(0) if len(events) > 1 else events[0]

    async def send(event: Any) -> None:
        sent.append(dict(event))

    scope = {
        "type": "websocket",
        "path": f"{root_path}/connection/websocket",
        "root_path": root_path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in {"host": "here", **headers}.items()],
        "client": ("127.0.0.1", 1),
        "server": ("here", 80),
        "scheme": "ws",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        "asgi": {"version": "3.0"},
        "state": {},
    }
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("root_path", ["", "/behind"])
def test_the_answers_are_those_of_the_usual_way(root_path: str) -> None:
    async def main() -> None:
        hub = Hub()
        app, watched = application(hub)
        async with hub:
            assert (await connect(app, {}, root_path=root_path))[0]["type"] == "websocket.accept"
            foreign = await connect(app, {"origin": "https://elsewhere.example"}, root_path=root_path)
            assert foreign[0]["status"] == 403
            refused = await connect(app, {"x-user": "eve"}, root_path=root_path)
            assert refused[0]["status"] == 418
            assert (b"x-why", b"eve") in refused[0]["headers"]
        assert watched.asked == (3 if root_path else 0)

    asyncio.run(main())
