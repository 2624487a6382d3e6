"""What clients see when a server stops: a close frame, and the end of a stream, under every ASGI server."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from tests.links.test_server_exit import open_stream, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from contract.serving import until

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
