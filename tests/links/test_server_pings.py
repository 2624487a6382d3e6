"""Under servers that wait for no pong: a client that is frozen is not present for long, a quiet one stays."""

from __future__ import annotations

import asyncio
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

from tidewire import Hub
from tidewire.limits import Limits
from tidewire.links.server_pings import pings_for
from tidewire.links.tcp_socket import Peer, peer_of
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


SCOPE = {"scheme": "ws", "http_version": "1.1", "client": ("::ffff:127.0.0.1", 4711), "server": ("0.0.0.0", 8000)}


@pytest.fixture
def under_granian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as if under granian, with a log that says everything once more."""
    monkeypatch.setattr("tidewire.links.server_pings._unpinged", LogLimit())
    monkeypatch.delitem(sys.modules, "hypercorn", raising=False)
    monkeypatch.setitem(sys.modules, "granian", ModuleType("granian"))


@pytest.mark.usefixtures("under_granian")
@pytest.mark.parametrize(("platform", "times"), [("linux", 0), ("darwin", 1)])
def test_a_start_warns_only_of_what_is_so(
    platform: str, times: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each start warned of TLS, which most of these servers do not speak."""
    monkeypatch.setattr("tidewire.links.server_pings.sys.platform", platform)

    async def main() -> None:
        async with Hub("memory://"), Hub("memory://", limits={"ping_seconds": 0}):
            pass

    asyncio.run(main())
    assert caplog.text.count("stays present under granian, because this is not Linux") == times
    assert caplog.text.count("stays present") == times


@pytest.mark.usefixtures("under_granian")
@pytest.mark.parametrize("changed", [{"client": None}, {"client": ["::1", 0]}, {"server": ("/run/app.sock", None)}])
def test_where_the_connection_is_not_known_it_is_said(
    changed: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    assert peer_of(SCOPE) == Peer("127.0.0.1", 4711, 8000)
    assert pings_for({**SCOPE, **changed}, Limits()) is None
    assert "stays present under granian, because the server does not say which TCP connection" in caplog.text


@pytest.mark.usefixtures("under_granian")
@pytest.mark.parametrize("changed", [{"scheme": "wss"}, {"http_version": "2"}])
@pytest.mark.parametrize(("seconds", "asked"), [(20, 20), (100_000, 32_767)])
def test_where_no_frame_can_be_written_the_kernel_asks(
    changed: dict[str, object], seconds: int, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Under TLS, a phone that had gone to sleep stayed present until something was sent to it, and 15 minutes more.

    So it did for good with more seconds than the kernel takes.
    """

    async def main() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            accepted, address = listener.accept()
            with accepted:
                scope = {**SCOPE, **changed, "client": address, "server": listener.getsockname()}
                pings = pings_for(scope, Limits(ping_seconds=seconds, pong_seconds=9))
                assert pings is not None
                pings.start(Still())
                assert pings.on_timer(1.0) is None
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == asked
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == (asked + 9) * 1000
                client.settimeout(0)
                with pytest.raises(BlockingIOError):
                    client.recv(1)
                pings.stop()

    asyncio.run(main())
    assert "stays present under granian, because the" in caplog.text


class Still:
    """A link that has sent all that it had."""

    sent = 0

    def no_pong(self) -> None:
        raise AssertionError("nobody was pinged")


def test_a_server_that_pings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hypercorn", "granian"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert pings_for({"client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 8000)}, Limits()) is None
