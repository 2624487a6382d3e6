"""Who watches a run as a user: private messages break nothing, the limit of a user counts, a ban ends it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from server.live_server import LiveServer, tidewire, wait_for

API = "/api/pipelines"
NAME = "server.example"
SETTINGS = """
allowed_origins = ["https://server.example"]
[pipelines]
folder = "pipelines"
[limits]
connections_per_user = 6
"""
SLOW = 'name = "slow"\n[[steps]]\nname = "sleep"\nrun = ["sleep", "60"]\n'


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tidewire.toml").write_text(SETTINGS)
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "slow.toml").write_text(SLOW)
    with LiveServer(folder) as running:
        yield running


def sign_up(server: LiveServer, name: str) -> str:
    answer = server.post("/signup", json={"username": name, "password": "correct horse"})
    token: str = answer.json()["token"]
    return token


@contextlib.contextmanager
def dial(server: LiveServer, path: str, token: str) -> Iterator[ClientConnection]:
    """Connect by a name that this machine does not have, as a user."""
    url = httpx.URL(server.url)
    opened = socket.create_connection((url.host, url.port or 80), timeout=10)
    mark = "&" if "?" in path else "?"
    with connect(f"ws://{NAME}:{url.port}{path}{mark}token={token}", sock=opened, proxy=None) as connection:
        yield connection


def until(connection: ClientConnection, text: str) -> str:
    """Receive until a message holds a text."""
    while text not in (message := str(connection.recv(timeout=10))):
        pass
    return message


def test_viewers_of_a_user(server: LiveServer) -> None:
    ann, bob = sign_up(server, "ann"), sign_up(server, "bob")
    headers = {"Host": NAME, "Authorization": f"Bearer {ann}"}
    run = server.post(f"{API}/runs", json={"pipeline": "slow", "sample": "S1"}, headers=headers).json()["run"]["id"]
    with contextlib.ExitStack() as stack:
        simple = stack.enter_context(dial(server, "/pipeline/S1?pipeline=slow", ann))
        full = stack.enter_context(dial(server, f"{API}/runs/{run}/events", ann))
        chat = stack.enter_context(dial(server, "/ws/auth", ann))
        other = stack.enter_context(dial(server, "/ws/auth", bob))
        until(simple, '"sleep"')
        until(full, '"state"')
        until(chat, '"online"')
        other.send(json.dumps({"type": "private_chat", "target_user": "ann", "message": "hello ann"}))
        assert "private_chat_message" in until(chat, "hello ann")
        full.send('{"type": "ping"}')
        until(full, '"pong"')
        assert server.post(f"{API}/runs/{run}/cancel", headers=headers).status_code == 202
        for viewer in (simple, full):
            until(viewer, '"cancelled"')
        assert "cannot be encoded" not in server.err


def test_viewers_count_as_connections_of_their_user_and_end_with_it(server: LiveServer) -> None:
    ann = sign_up(server, "ann")
    headers = {"Host": NAME, "Authorization": f"Bearer {ann}"}
    run = server.post(f"{API}/runs", json={"pipeline": "slow", "sample": "S1"}, headers=headers).json()["run"]["id"]
    path = f"{API}/runs/{run}/events"
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(dial(server, path, ann)) for _ in range(6)]
        for viewer in viewers:
            until(viewer, '"state"')
        with pytest.raises(InvalidStatus, match="503"), dial(server, path, ann):
            pass
        removed = tidewire("user", "remove", "ann", folder=server.folder)
        assert removed.returncode == 0, removed.stderr
        for viewer in viewers:
            with pytest.raises(ConnectionClosed):
                until(viewer, "never sent")


def drain_for(connection: ClientConnection, *, seconds: float) -> None:
    """Receive for a while; raises ConnectionClosed where the connection ends meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            connection.recv(timeout=left)


def log_in(server: LiveServer, name: str) -> str:
    token: str = server.post("/login", json={"username": name, "password": "correct horse"}).json()["token"]
    return token


def test_viewers_end_with_their_session(server: LiveServer) -> None:
    first, other = sign_up(server, "ann"), log_in(server, "ann")
    headers = {token: {"Host": NAME, "Authorization": f"Bearer {token}"} for token in (first, other)}
    start = server.post(f"{API}/runs", json={"pipeline": "slow", "sample": "S1"}, headers=headers[first])
    paths = (f"{API}/runs/{start.json()['run']['id']}/events", "/pipeline/S1?pipeline=slow")

    def both(stack: contextlib.ExitStack, token: str) -> list[ClientConnection]:
        viewers = [stack.enter_context(dial(server, path, token)) for path in paths]
        for viewer in viewers:
            until(viewer, "sleep")
        return viewers

    def expect_end(viewers: list[ClientConnection]) -> None:
        for viewer in viewers:
            with pytest.raises(ConnectionClosed) as closed:
                until(viewer, "never sent")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008

    with contextlib.ExitStack() as stack:
        ended, going_on = both(stack, first), both(stack, other)
        assert server.post("/logout", headers=headers[first]).json() == {"ended": 1}
        expect_end(ended)
        third = log_in(server, "ann")
        change = {"password": "correct horse", "new_password": "correct horse 2"}
        third_headers = {"Host": NAME, "Authorization": f"Bearer {third}"}
        stays = both(stack, third)
        assert server.post("/password", json=change, headers=third_headers).json() == {"ended": 1}
        expect_end(going_on)
        stays[0].send('{"type": "ping"}')
        until(stays[0], '"pong"')
        assert server.post("/logout/everywhere", headers=third_headers).json() == {"ended": 1}
        expect_end(stays)
        fourth = server.post("/login", json={"username": "ann", "password": "correct horse 2"}).json()["token"]
        newest = both(stack, fourth)
        for viewer in newest:  # an end is applied for seconds, several times a second, to those that were opening
            drain_for(viewer, seconds=0.7)


def test_upload_ends_with_its_session(server: LiveServer) -> None:
    token = sign_up(server, "ann")
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80), timeout=20) as uploading:
        head = f"POST {API}/uploads?name=S1.fastq HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {token}\r\n"
        uploading.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\n" + b"A" * 1_000)
        headers = {"Host": NAME, "Authorization": f"Bearer {token}"}
        wait_for(lambda: list(server.folder.rglob(".[0-9a-f]*")), what="the draft of the upload")
        assert server.post("/logout", headers=headers).json() == {"ended": 1}
        uploading.settimeout(0.1)
        answer = b""
        for _ in range(200):
            with contextlib.suppress(TimeoutError):
                answer = uploading.recv(4_096)
                break
            uploading.sendall(b"A" * 10)
        assert answer.startswith(b"HTTP/1.1 401 "), answer
    wait_for(lambda: not list(server.folder.rglob(".[0-9a-f]*")), what="the end of the draft")
