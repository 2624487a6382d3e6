"""Our application under test: the same room as a served protocol and as a FastAPI endpoint of the library.

`BENCH_URL` names the store. The limits that keep a stranger from publishing thousands of messages a second, and from
holding thousands of connections, are raised; nothing else is changed.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from fastapi import FastAPI, WebSocket

from tidewire import ChannelOptions, Hub, Limits
from tidewire.rules.base import Action, Authority, Caller, ConnectAttempt, Grant, Identity
from tidewire.sessions.centrifuge.websocket import serve_websocket

limits = Limits(rate=1e9, burst=1_000_000_000, connections=20_000)
hub = Hub(os.environ.get("BENCH_URL", "memory://"), limits=limits)
app = FastAPI(lifespan=hub.lifespan)
app.router.routes.append(hub.route("/served/{channel}"))


@app.websocket("/endpoint/{room}")
async def endpoint(websocket: WebSocket, room: str) -> None:
    """Follow the room, and publish there what the client sends."""
    async with hub.connect(websocket) as connection:
        await connection.subscribe(room)
        async for text in connection.iter_text():
            await connection.publish(room, text)


class Anybody(Authority):
    """Lets everybody do everything, as the other servers under test do."""

    def __init__(self) -> None:
        self._options = ChannelOptions()

    async def connect(self, attempt: ConnectAttempt, identity: Identity | None) -> Identity:
        return Identity()

    async def refresh(self, caller: Caller, token: str) -> Identity:
        return Identity()

    def options(self, channel: str) -> ChannelOptions:
        return self._options

    async def subscribe(self, caller: Caller, channel: str, token: str, data: bytes) -> Grant:
        return Grant(self._options)

    async def sub_refresh(self, caller: Caller, channel: str, token: str) -> Grant:
        return Grant(self._options)

    async def allow(self, caller: Caller, channel: str, action: Action, *, subscribed: bool) -> None:
        return None


anybody = Anybody()


@app.websocket("/connection/websocket")
async def centrifuge(websocket: WebSocket) -> None:
    """Serve the Centrifuge protocol, in JSON or Protobuf."""
    await serve_websocket(hub.node, anybody, websocket, origins=hub.origins)


@app.get("/stats")
async def stats() -> dict[str, Any]:
    """Return the figures of the node."""
    figures: dict[str, Any] = msgspec.to_builtins(hub.statistics())
    return figures
