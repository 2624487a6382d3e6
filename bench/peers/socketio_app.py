"""python-socketio as an ASGI application: the query names the room, and the event "m" goes to everybody in it."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qs

import socketio  # type: ignore[import-untyped]

PING_SECONDS = float(os.environ.get("BENCH_PING_SECONDS", "25"))

#: Set where several workers share their rooms.
REDIS = os.environ.get("BENCH_REDIS")

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    http_compression=False,
    ping_interval=PING_SECONDS,
    client_manager=socketio.AsyncRedisManager(REDIS) if REDIS else None,
)
rooms: dict[str, str] = {}


async def connect(sid: str, environ: dict[str, Any]) -> None:
    """Enter the room that the query names."""
    rooms[sid] = parse_qs(environ["QUERY_STRING"])["room"][0]
    await server.enter_room(sid, rooms[sid])


async def disconnect(sid: str) -> None:
    """Forget the client."""
    rooms.pop(sid, None)


async def message(sid: str, data: str) -> None:
    """Publish in the client's room."""
    await server.emit("m", data, room=rooms[sid])


for name, handler in (("connect", connect), ("disconnect", disconnect), ("m", message)):
    server.on(name, handler)
app = socketio.ASGIApp(server)
