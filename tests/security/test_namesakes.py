"""Whose is what: the login and a connection end together, and an account is no user of the application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from server.live_server import LiveServer, tidewire
from tidewire.channels import personal
from tidewire.hub import Hub
from tidewire.publisher import Publisher

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


@contextlib.contextmanager
def in_chat(server: LiveServer, token: str) -> Iterator[ClientConnection]:
    """Connect to the chat, and wait until everything of the beginning has come."""
    with connect(f"{server.websocket_url}/ws/auth?token={token}", proxy=None) as connection:
        connection.send('{"type": "ping"}')
        until(connection, '"pong"')
        yield connection


def until(connection: ClientConnection, text: str) -> list[str]:
    """Receive until a message holds a text; return all messages."""
    found: list[str] = []
    while not found or text not in found[-1]:
        found.append(str(connection.recv(timeout=20)))
    return found


@pytest.mark.parametrize("removed", [False, True], ids=["first", "second of its name"])
def test_nobody_is_told_what_is_for_a_namesake(server: LiveServer, removed: bool) -> None:
    name = f"eve{removed}"
    sign_up(server, name)
    if removed:
        assert tidewire("user", "remove", name, folder=server.folder).returncode == 0
        sign_up(server, name)
    with contextlib.ExitStack() as stack:
        account = stack.enter_context(in_chat(server, log_in(server, name)))
        friend = stack.enter_context(in_chat(server, sign_up(server, f"dan{removed}")))
        users = [name, f"{name}~2"]
        application = [stack.enter_context(client(server, token_of(user))) for user in users]
        friend.send(json.dumps({"type": "private_chat", "target_user": name, "message": "for the account"}))
        until(account, "for the account")

        with Publisher(f"sqlite:///{server.folder}/tidewire.db") as publisher:
            for user in users:
                publisher.send_to_user(user, {"text": "for the application"})
        for connection in application:
            assert "for the account" not in "".join(until(connection, "for the application"))
        friend.send(json.dumps({"type": "private_chat", "target_user": name, "message": "the last one"}))
        assert "for the application" not in "".join(until(account, "the last one"))
        with connect(server.websocket_url + "/connection/websocket", proxy=None) as forged:
            forged.send(json.dumps({"id": 1, "connect": {"token": token_of(f"{name}~account")}}))
            with pytest.raises(ConnectionClosed):
                forged.recv(timeout=20)


def test_an_account_is_never_made_the_user_of_the_application(tmp_path: Path) -> None:
    """Not by settings that accept accounts later, nor by a command that does not know the server's settings."""
    broker = f"sqlite:///{tmp_path}/tidewire.db"
    (tmp_path / "tidewire.toml").write_text(SETTINGS)
    (tmp_path / "pipelines").mkdir()
    with LiveServer(tmp_path, "--broker", broker) as first:
        sign_up(first, "ann")
    (tmp_path / "tidewire.toml").write_text("signup = false\n" + SETTINGS)
    with LiveServer(tmp_path, "--broker", broker) as server, contextlib.ExitStack() as stack:
        mine = log_in(server, "ann")
        account, chat = stack.enter_context(client(server, mine)), stack.enter_context(in_chat(server, mine))
        application = stack.enter_context(client(server, token_of("ann")))
        with Publisher(broker) as publisher:
            publisher.send_to_user("ann", {"text": "for the application"})
            publisher.send_to_user("ann~account", {"text": "for the account"})
        until(application, "for the application")
        for connection in (account, chat):
            assert "for the application" not in "".join(until(connection, "for the account"))
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        removed = tidewire("user", "remove", "ann", "--broker", broker, folder=elsewhere)
        assert "private messages: removed" in removed.stdout + removed.stderr
    assert kept(broker) == {"ann": 1, "ann~account": 0}


def test_messages_are_kept_that_may_be_the_application_s(tmp_path: Path) -> None:
    """No server has said yet who the account is in the hub."""
    broker = f"sqlite:///{tmp_path}/tidewire.db"
    added = tidewire("user", "add", "ann", "--password-stdin", "--broker", broker, folder=tmp_path, stdin=OLD)
    assert added.returncode == 0, added.stderr
    with Publisher(broker) as publisher:
        for user in ("ann", "ann~account"):
            publisher.send_to_user(user, {"text": "for one of them"})
    removed = tidewire("user", "remove", "ann", "--broker", broker, folder=tmp_path)
    assert "private messages: kept, unless they are surely of this account" in removed.stdout + removed.stderr
    assert kept(broker) == {"ann": 1, "ann~account": 0}


def kept(broker: str) -> dict[str, int]:
    """Count the messages that the store keeps for each of two users."""

    async def read() -> dict[str, int]:
        async with Hub(broker) as hub:
            pages = {user: await hub.node.broker.history(personal(user)) for user in ("ann", "ann~account")}
            return {user: len(page.publications) for user, page in pages.items()}

    return asyncio.run(read())


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
