"""Whose is what: the login and a connection end together, and an account is no user of the application."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.live_server import LiveServer

SECRET = "a secret that is long enough for SHA-256"
SETTINGS = f"""
[pipelines]
folder = "pipelines"
[client.token]
hmac_secret_key = "{SECRET}"
"""
OLD, NEW = "correct horse", "another horse"
#: Through a proxy, a connection from this machine is a user's as any other.
PROXIED = {"X-Forwarded-For": "192.0.2.1"}


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tidewire.toml").write_text(SETTINGS)
    (folder / "pipelines").mkdir()
    with LiveServer(folder, "--workers", request.param) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def sign_up(server: LiveServer, name: str) -> str:
    token: str = server.post("/signup", json={"username": name, "password": OLD}).json()["token"]
    return token


def log_in(server: LiveServer, name: str, password: str = OLD) -> str:
    token: str = server.post("/login", json={"username": name, "password": password}).json()["token"]
    return token


@contextlib.contextmanager
def client(server: LiveServer, token: str, **data: Any) -> Iterator[ClientConnection]:
    """Connect by the client protocol with a token."""
    with connect(server.websocket_url + "/connection/websocket", proxy=None, additional_headers=PROXIED) as connection:
        assert "connect" in ask(connection, 1, connect={"token": token, "data": data}), token
        yield connection


def ask(connection: ClientConnection, number: int, **command: Any) -> dict[str, Any]:
    connection.send(json.dumps({"id": number, **command}))
    answer: dict[str, Any] = json.loads(connection.recv(timeout=20))
    return answer


def token_of(user: str) -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now - 1, "exp": now + 600}, SECRET, "HS256")


def test_the_page_of_runs_ends_with_its_session(server: LiveServer) -> None:
    first = sign_up(server, "ann")
    with client(server, first, tidewire="pipelines") as page:
        second = log_in(server, "ann")
        assert "refresh" in ask(page, 2, refresh={"token": second})
        assert server.post("/logout", headers=bearer(first)).json() == {"ended": 1}
        assert "refresh" in ask(page, 3, refresh={"token": second})  # it goes by the newer one
        assert server.post("/logout", headers=bearer(second)).json() == {"ended": 1}
        with pytest.raises(ConnectionClosed):
            page.recv(timeout=20)


def test_an_account_that_logs_out_ends_nothing_of_a_namesake_in_the_application(server: LiveServer) -> None:
    accounts = [sign_up(server, "42"), log_in(server, "42")]
    with client(server, token_of("42")) as application, client(server, accounts[0], tidewire="pipelines") as page:
        assert server.post("/logout/everywhere", headers=bearer(accounts[1])).json() == {"ended": 2}
        with pytest.raises(ConnectionClosed):
            page.recv(timeout=20)
        with pytest.raises(TimeoutError):
            application.recv(timeout=1.0)


def test_logins_that_come_with_the_old_password_end_with_it(server: LiveServer) -> None:
    """However the login and the change meet, on whichever worker."""
    for round_ in range(3):
        name = f"bob{round_}"
        mine = sign_up(server, name)
        with ThreadPoolExecutor(6) as threads:
            logins = [threads.submit(server.post, "/login", json={"username": name, "password": OLD}) for _ in range(6)]
            body = {"password": OLD, "new_password": NEW}
            assert server.post("/password", json=body, headers=bearer(mine)).status_code == 200
        answers = [login.result() for login in logins]
        assert {answer.status_code for answer in answers} <= {200, 401}
        tokens = [answer.json()["token"] for answer in answers if answer.status_code == 200]
        states = [server.get("/me", headers=bearer(token)).status_code for token in tokens]
        assert set(states) <= {401}
        assert server.get("/me", headers=bearer(mine)).status_code == 200
