"""One small application for every ASGI server: `python -m tests.links.suite_app KIND` prints its port and serves it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import uvicorn
from fastapi import Cookie, Depends, FastAPI, Header, Path, Query, Security, WebSocket
from fastapi.security import APIKeyQuery
from starlette.exceptions import WebSocketException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tidewire import Hub, Limits, choose_subprotocol
from tidewire.engine.connection import Connection
from tidewire.links.first_request import configured as configured_http
from tidewire.links.stream import LINES, StreamLink
from tidewire.messages import Membership, WireMessage
from tidewire.protocols.close_codes import SHUTDOWN
from tidewire.protocols.json import JSON
from tidewire.protocols.plain import PLAIN

KINDS = ("tidewire", "websockets-sansio", "hypercorn", "granian")
LIMITS = Limits(
    connections_per_user=2,
    message_size=2_000_000,
    inbox_bytes=100_000,
    stalled_seconds=2.0,
    outbox_bytes=300_000,
    drain_seconds=1.0,
)

hub = Hub("memory://", limits=LIMITS)
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.protocol_router("/served/{channel}", JSON, history=10))


@app.websocket("/echo")
async def echo(websocket: WebSocket, user: str = "") -> None:
    async with hub.connect(websocket, user=user) as connection:
        async for message in connection.iter_messages():
            if isinstance(message, str):
                await connection.send_text(message)
            else:
                await connection.send_bytes(message)


@app.websocket("/json")
async def json(websocket: WebSocket) -> None:
    async with hub.connect(websocket, protocol=JSON) as connection:
        async for value in connection.iter_json(dict[str, int]):
            await connection.send_json(value)
            await connection.send_json(value, binary=True)


@app.websocket("/room/{room}")
async def chat(websocket: WebSocket, room: str, user: str, history: int = 5) -> None:
    async with hub.connect(websocket, user=user) as connection:
        await connection.subscribe(
            room, join=f"{user} joined", leave=f"{user} left", leave_on_error=f"{user} failed", history=history
        )
        async for text in connection.iter_text():
            if text == "raise":
                raise ValueError("a secret inside of the application")
            if text == "close":
                await connection.close(4321, "as you wish")
                continue
            await connection.publish(room, f"{user}: {text}")


@app.websocket("/talk/{room}")
async def talk(websocket: WebSocket, room: str, user: str) -> None:
    """Answer before it publishes, as the tutorial does."""
    async with hub.connect(websocket, user=user) as connection:
        await connection.subscribe(room, join=f"{user} joined", leave=f"{user} left")
        async for text in connection.iter_text():
            await connection.send_text(f"you: {text}")
            await asyncio.sleep(0)
            await connection.publish(room, f"{user}: {text}")


def get_number(number: Annotated[int, Query()]) -> int:
    return number * 2


@app.websocket("/dependencies/{item}")
async def dependencies(
    websocket: WebSocket,
    item: Annotated[int, Path(ge=1)],
    doubled: Annotated[int, Depends(get_number)],
    key: Annotated[str, Security(APIKeyQuery(name="key"))],
    session: Annotated[str | None, Cookie()] = None,
    x_custom: Annotated[str | None, Header()] = None,
) -> None:
    if key != "open":
        raise WebSocketException(1008, "wrong key")
    async with hub.connect(websocket) as connection:
        await connection.send_json([item, doubled, key, session, x_custom])
        await connection.wait_closed()


@app.websocket("/bare")
async def bare(websocket: WebSocket) -> None:
    async with hub.connect(websocket) as connection:
        for receive in (websocket.receive, websocket.receive_text, websocket.receive_json):
            try:
                await receive()
            except Exception as error:
                await connection.send_text(str(error))


@app.websocket("/subprotocol")
async def subprotocol(websocket: WebSocket) -> None:
    asked: Sequence[str] = websocket.scope.get("subprotocols", ())
    chosen = choose_subprotocol(asked, ("chat", "news"))
    async with hub.connect(websocket, subprotocol=chosen, headers=[(b"x-own", b"yes")]) as connection:
        await connection.send_text(str(chosen))
        await connection.wait_closed()


@app.post("/publish/{channel}")
async def publish(channel: str, size: int, count: int) -> None:
    for number in range(count):
        await hub.publish(channel, f"{number} ".ljust(size, "x"))
        await asyncio.sleep(0.002)


class Streaming(Response):
    """Lets a user follow a room over an endless response."""

    def __init__(self, room: str, user: str) -> None:
        super().__init__()
        self._room = room
        self._user = user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("extensions", {}).get("tidewire.stream")
        link = StreamLink(receive, send, LIMITS, LINES, last_message=say_bye, server=server)
        connection = Connection(link, PLAIN, user=self._user, address="", limits=LIMITS)
        if server is not None:
            server.on_shutdown = lambda: connection.end(SHUTDOWN)
        await hub.node.attach(connection)
        await hub.node.subscribe(connection, self._room, membership=Membership(present=True))
        connection.write(WireMessage(f"hello {self._user}".encode()))
        await link.keep_open()


def say_bye(code: int, reason: str) -> WireMessage:
    return WireMessage(f"bye {code} {reason}".encode())


@app.get("/stream/{room}")
async def stream(room: str, user: str) -> Response:
    return Streaming(room, user)


@app.post("/disconnect/{user}")
async def disconnect(user: str) -> None:
    await hub.disconnect(user=user)


def describe(task: asyncio.Task[Any]) -> str:
    """Name a task of ours; servers have their own."""
    code = getattr(task.get_coro(), "cr_code", None)
    return str(code.co_qualname) if code is not None and "/tidewire/" in code.co_filename else ""


@app.get("/known/{channel}")
async def known(channel: str) -> dict[str, Any]:
    statistics = hub.statistics()
    history = await hub.history(channel)
    return {
        "users": await hub.users(channel),
        "history": [publication.data.decode() for publication in history.publications],
        "connections": statistics.connections,
        "slow": statistics.slow_disconnects,
        "tasks": sorted(name for name in map(describe, asyncio.all_tasks()) if name),
    }


def serve_uvicorn(listener: socket.socket, kind: str) -> None:
    ws = "tidewire.links.uvicorn:WebSocketProtocol" if kind == "tidewire" else kind
    http: Any = "auto"
    if kind == "tidewire":
        from tidewire.links.uvicorn import configured

        ws = configured(LIMITS)  # type: ignore[assignment]
        http = configured_http(LIMITS)
    config = uvicorn.Config(
        app, http=http, ws=ws, ws_max_size=LIMITS.message_size, timeout_graceful_shutdown=8, log_level="error"
    )
    uvicorn.Server(config).run(sockets=[listener])


def serve_hypercorn(listener: socket.socket) -> None:
    import signal

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.graceful_timeout = 5.0
    # Its default, above our limit. At its own limit it sends a close frame, tells the application nothing, and now and
    # then never ends the connection.
    config.websocket_max_message_size = 16 * 1024 * 1024

    async def main() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await serve(app, config, shutdown_trigger=ended.wait)  # type: ignore[arg-type]

    asyncio.run(main())


def serve_granian(port: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces

    Granian(
        "tests.links.suite_app:app", address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False
    ).serve()


def main() -> None:
    kind = sys.argv[1]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if kind == "granian":  # it listens by itself
        listener.close()
        print(port, flush=True)
        serve_granian(port)
        return
    listener.listen(128)
    print(port, flush=True)
    if kind == "hypercorn":
        serve_hypercorn(listener)
    else:
        serve_uvicorn(listener, kind)


if __name__ == "__main__":
    main()
