"""Under servers that wait for no pong: a client that is frozen is not present for long, a quiet one stays."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
from tests.links.test_server_exit import serving
from tests.links.wire import wait_for
from websockets.sync.client import connect

from tidewire.links.server_pings import pings_for
from tidewire.links.tcp_socket import Peer, peer_of
from tidewire.options import Limits
from tidewire.support.log_limit import LogLimit

APPLICATION = """
import asyncio
from fastapi import FastAPI, WebSocket
from tidewire import Hub, Limits
hub = Hub("memory://", limits=Limits(ping_seconds=1, pong_seconds=1))
app = FastAPI(lifespan=hub.lifespan)

@app.websocket("/ws/{user}")
async def room(websocket: WebSocket, user: str):
    async with hub.connect(websocket, user=user) as connection:
        await connection.subscribe("room", presence=True)
        async for text in connection.iter_text():
            for number in range(int(text)):
                await connection.send_text(f"{number} ".ljust(3000, "x"))
                await asyncio.sleep(0.01)

@app.get("/users")
async def users():
    return await hub.users("room")
"""
HANDSHAKE = (
    "GET /ws/{} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def users(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/users", timeout=5) as answer:
        found: list[str] = json.load(answer)
        return sorted(found)


def is_serving(port: int) -> bool:
    try:
        return users(port) == []
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hypercorn", "granian"])
def test_a_frozen_client_is_present_no_longer_than_promised(kind: str, tmp_path: Path) -> None:
    """It was present for ever: its kernel takes what is sent, and these servers wait for no pong."""
    with serving(kind, tmp_path, APPLICATION) as (_, port):
        wait_for(lambda: is_serving(port), 20, "the server answers")
        with (
            socket.create_connection(("127.0.0.1", port)) as frozen,
            connect(f"ws://127.0.0.1:{port}/ws/quiet") as quiet,
        ):
            frozen.sendall(HANDSHAKE.format("frozen").encode())
            wait_for(lambda: users(port) == ["frozen", "quiet"], 5, "both are there")
            wait_for(lambda: users(port) == ["quiet"], 6, "the frozen one is noticed")
            time.sleep(3)  # several pings
            assert users(port) == ["quiet"]
            quiet.send("400")  # for four seconds, with pings between the messages
            for number in range(400):
                text = quiet.recv(5)
                assert isinstance(text, str)
                assert text.split() == [str(number), "x" * (2999 - len(str(number)))]
            assert users(port) == ["quiet"]
        assert "Traceback" not in Path(tmp_path, "log").read_text()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"scheme": "wss"}, "TLS"),
        ({"http_version": "2"}, "HTTP/2"),
        ({"client": None}, "which TCP"),
        ({"client": ["203.0.113.7", 0]}, "which TCP"),
        ({"server": ("/run/app.sock", None)}, "which TCP"),
    ],
)
def test_where_no_ping_can_be_written_it_is_said(
    changed: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tidewire.links.server_pings._unpinged", LogLimit())
    monkeypatch.delitem(sys.modules, "hypercorn", raising=False)
    monkeypatch.setitem(sys.modules, "granian", ModuleType("granian"))
    scope = {"scheme": "ws", "http_version": "1.1", "client": ("::ffff:127.0.0.1", 4711), "server": ("0.0.0.0", 8000)}
    assert peer_of(scope) == Peer("127.0.0.1", 4711, 8000)
    assert pings_for({**scope, **changed}, Limits()) is None
    assert "granian waits for no answer to a WebSocket ping" in caplog.text
    assert why in caplog.text


def test_a_server_that_pings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hypercorn", "granian"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert pings_for({"client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 8000)}, Limits()) is None
