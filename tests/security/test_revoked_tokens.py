"""Revoked tokens, to connect and to subscribe, on two workers with real sockets."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.live_server import LiveServer, wait_for

SECRET = "a secret that is long enough for SHA-256"
SETTINGS = f"""
[http_api]
key = "a key of the API"
[client.token]
hmac_secret_key = "{SECRET}"
[[channel.namespaces]]
name = "news"
"""
REVOKED = 3500


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tidewire.toml").write_text(SETTINGS)
    with LiveServer(folder, "--workers", "2") as running:
        yield running


def token_of(user: str, **claims: Any) -> str:
    now = time.time()
    return jwt.encode({"sub": user, "iat": now, "exp": now + 600, **claims}, SECRET, "HS256")


def revoke(server: LiveServer, **body: str) -> None:
    answer = server.post("/api/revoke", json=body, headers={"X-API-Key": "a key of the API"})
    assert answer.status_code == 200, answer.text


@contextlib.contextmanager
def client(server: LiveServer, token: str) -> Iterator[ClientConnection]:
    """Connect by the client protocol with a token."""
    with connect(server.websocket_url + "/connection/websocket", proxy=None) as connection:
        assert "connect" in ask(connection, 1, connect={"token": token})
        yield connection


def ask(connection: ClientConnection, number: int, **command: Any) -> dict[str, Any]:
    connection.send(json.dumps({"id": number, **command}))
    while True:
        answer: dict[str, Any] = json.loads(connection.recv(timeout=20))
        if answer.get("id") == number:
            return answer


def may_refresh(connection: ClientConnection, token: str) -> bool:
    try:
        return "sub_refresh" in ask(connection, 3, sub_refresh={"channel": "news:1", "token": token})
    except ConnectionClosed:
        return False


def is_refused_on_both(server: LiveServer, token: str) -> bool:
    """Return whether eight attempts in a row, which come to both workers, are refused for good."""
    return all(code_of(server, token) == REVOKED for _ in range(8))


def code_of(server: LiveServer, token: str) -> int:
    """Return the code with which a connect is refused, 0 for one that is not."""
    with connect(server.websocket_url + "/connection/websocket", proxy=None) as connection:
        connection.send(json.dumps({"id": 1, "connect": {"token": token}}))
        try:
            answer = json.loads(connection.recv(timeout=20))
        except ConnectionClosed as closed:
            return 0 if closed.rcvd is None else closed.rcvd.code
        return int(answer.get("error", {}).get("code", 0))


def test_no_token_says_that_it_is_issued_after_its_revocation(server: LiveServer) -> None:
    assert code_of(server, token_of("ann", iat=time.time() + 60)) == 109  # fetch another
    assert code_of(server, token_of("ann", iat=time.time() + 86_400)) == REVOKED


@pytest.mark.parametrize("which", ["user", "jti"])
def test_a_revoked_subscription_token_begins_and_extends_no_subscription(server: LiveServer, which: str) -> None:
    user = f"bob by {which}"
    of_channel = token_of(user, channel="news:1", jti=f"{which}1")
    with client(server, token_of(user)) as first:
        assert "subscribe" in ask(first, 2, subscribe={"channel": "news:1", "token": of_channel})
        if which == "user":
            revoke(server, user=user)
            with pytest.raises(ConnectionClosed):
                first.recv(timeout=20)
        else:
            revoke(server, jti=f"{which}1")
            wait_for(lambda: not may_refresh(first, of_channel), what="the refusal of a refresh")

    def is_refused() -> bool:
        for _ in range(8):
            with client(server, token_of(user)) as later:
                answer = ask(later, 2, subscribe={"channel": "news:1", "token": of_channel})
                if answer.get("error", {}).get("code") != 103:
                    return False
        return True

    wait_for(is_refused, what="the refusal on all workers")
    with client(server, token_of(user)) as later:
        newer = token_of(user, channel="news:1", jti=f"{which}2")
        assert "subscribe" in ask(later, 2, subscribe={"channel": "news:1", "token": newer})


def test_a_revoked_connection_token_opens_nothing_on_any_worker(server: LiveServer) -> None:
    token = token_of("cid", jti="of cid")
    with client(server, token) as connection:
        revoke(server, jti="of cid")
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=20)
    wait_for(lambda: is_refused_on_both(server, token), what="the refusal on all workers")
