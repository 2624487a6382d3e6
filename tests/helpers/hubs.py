"""Hubs in running servers, whose one endpoint a test gives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import hypercorn
import hypercorn.asyncio
import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tidewire import Hub
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.testing import wait_until

__all__ = ("Application", "application", "code_of", "receive", "run", "serving")


class Application:
    """A running server for one hub; `open` connects to the handler that a test gives."""

    def __init__(self, hub: Hub, port: int) -> None:
        self.hub = hub
        self.port = port

    def open(self, path: str = "/", **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, compression=None, **options)


def application(hub: Hub, handler: Any) -> FastAPI:
    """Return an application with one endpoint, at /."""
    app = FastAPI(lifespan=hub.lifespan)
    app.websocket("/")(handler)
    return app


@asynccontextmanager
async def serving(hub: Hub, handler: Any, *, ws: Any = WebSocketProtocol) -> AsyncIterator[Application]:
    """Serve an endpoint, or a whole application, by uvicorn with a WebSocket class, or by "hypercorn"."""
    app = handler if isinstance(handler, FastAPI) else application(hub, handler)
    # from its descriptor a socket learns that it is TCP's: else asyncio sets no TCP_NODELAY for what it accepts, and a
    # body that is written behind its head waits 40 ms for the client's acknowledgement
    listener = socket.socket(fileno=socket.create_server(("127.0.0.1", 0)).detach())
    async with _hypercorn(app, listener) if ws == "hypercorn" else _uvicorn(app, listener, ws):
        yield Application(hub, listener.getsockname()[1])
        await wait_until(lambda: hub.statistics().connections == 0, what="every connection is let go")


@asynccontextmanager
async def _uvicorn(app: FastAPI, listener: socket.socket, ws: Any) -> AsyncIterator[None]:
    config = uvicorn.Config(app, ws=ws, log_level="critical", lifespan="on", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await wait_until(lambda: server.started or task.done())
    try:
        yield
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def _hypercorn(app: FastAPI, listener: socket.socket) -> AsyncIterator[None]:
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = None
    config.graceful_timeout = 1.0
    stopped = asyncio.Event()
    task = asyncio.create_task(hypercorn.asyncio.serve(cast(Any, app), config, shutdown_trigger=stopped.wait))
    try:
        yield
    finally:
        stopped.set()
        await task


def run(main: Coroutine[Any, Any, None], seconds: float = 60) -> None:
    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await main
        for _ in range(3):
            await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() - {asyncio.current_task()} if "websockets" not in repr(task)]
        assert not left, f"tasks are left: {left}"

    asyncio.run(limited())


async def receive(client: ClientConnection) -> Any:
    async with asyncio.timeout(20):
        return await client.recv()


async def code_of(client: ClientConnection) -> int:
    async with asyncio.timeout(20):
        try:
            while True:
                await client.recv()
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd is not None else 1006
