"""What is seen when a server stops, or its application does: a close frame, the end of a stream, an exit code."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import httpx
import pytest
from tests.links.test_server_exit import open_stream, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from contract.serving import Server, until
from tidewire import Hub
from tidewire.errors import ConfigurationError

APPLICATION = """
from fastapi import FastAPI, WebSocket
from tidewire import Hub
hub = Hub("memory://", limits={"drain_seconds": 0.5})
app = FastAPI(lifespan=hub.lifespan)
app.include_router(hub.client_router())

@app.websocket("/ws")
async def room(websocket: WebSocket):
    async with hub.connect(websocket) as connection:
        async for text in connection.iter_text():
            await connection.send_text(text)
"""


def rest_of(stream: socket.socket) -> bytes:
    rest = b""
    while data := stream.recv(65_536):
        rest += data
    return rest


@pytest.mark.parametrize("server", ["tidewire", "uvicorn", "gunicorn", "hypercorn", "granian"])
def test_clients_are_told_of_a_stop(server: str, tmp_path: Path) -> None:
    """granian sent no close frame (emmett-framework/granian#796), hypercorn cut streams off (pgjones/hypercorn#308)."""
    with serving(server, tmp_path, APPLICATION) as (process, port):
        stream = until(lambda: open_stream(port), 20, what="the server answers")
        assert stream is not None
        with stream, connect(f"ws://127.0.0.1:{port}/ws") as client:
            client.send("hello")
            assert client.recv(5) == "hello"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(20)
            assert closed.value.rcvd is not None, "a close frame came"
            assert closed.value.rcvd.code == 1012
            assert rest_of(stream).endswith(b"0\r\n\r\n"), "the response has its end"
        process.wait(20)


FAILING = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from fastapi import FastAPI
from tidewire import Hub

hub = Hub("sqlite:///app.db", limits={"drain_seconds": 0.1})

async def consume():
    while True:
        try:
            Path("broken").unlink()
        except FileNotFoundError:
            await asyncio.sleep(0.05)
        else:
            raise RuntimeError("the consumer broke")

@asynccontextmanager
async def lifespan(app):
    async with hub.lifespan(app), asyncio.TaskGroup() as group:
        group.create_task(consume())
        yield

app = FastAPI(lifespan=lifespan)

@app.get("/position")
async def position():
    return str(await hub.position("a"))
"""
TOLD = "the application's lifespan ended while it served: RuntimeError: the consumer broke"


def test_a_lifespan_that_fails_while_it_serves_ends_the_server(tmp_path: Path) -> None:
    """It went on listening, and answered everything with 500."""
    with serving("tidewire", tmp_path, FAILING) as (process, port):
        until(lambda: _status(port) == 200, 20, what="the server answers")
        (tmp_path / "broken").touch()
        assert process.wait(20) == 2
    assert TOLD in (tmp_path / "log").read_text()


def test_a_worker_whose_lifespan_fails_is_replaced(tmp_path: Path) -> None:
    source, folder = tmp_path / "app.py", tmp_path / "folder"
    source.write_text(FAILING)
    folder.mkdir()
    server = Server(folder, app=source, workers=2)
    with server.running():
        (folder / "broken").touch()
        until(lambda: TOLD in server.log(), 20, what="one has ended")
        until(lambda: server.log().count("serving app:app") == 3, 20, what="another one takes its place")
        assert server.http.get("/position").status_code == 200


def test_a_hub_that_was_open_says_so() -> None:
    async def main() -> None:
        hub = Hub()
        async with hub:
            pass
        with pytest.raises(ConfigurationError, match="open no more"):
            await hub.publish("a", "x")

    asyncio.run(main())


def _status(port: int) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/position").status_code
    except httpx.TransportError:
        return 0
