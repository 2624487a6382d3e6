"""Who may connect to a real server: its own accounts, those who bring an application's token, strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server.live_server import LiveServer, tidewire
from tidewire.server.settings import Settings

SECRET = "a secret that is long enough for SHA-256"
KEYS = f'[client.token]\nhmac_secret_key = "{SECRET}"\n'
ROOM = '[[channel.namespaces]]\nname = "talk"\nallow_subscribe_for_client = true\n'


def ask(server: LiveServer, *commands: dict[str, Any], cookie: str = "") -> list[dict[str, Any]] | int:
    """Return the replies, or the code that ended the connection."""
    headers = {"Cookie": f"token={cookie}"} if cookie else {}
    url = server.websocket_url + "/connection/websocket"
    with connect(url, proxy=None, additional_headers=headers) as socket:
        replies: list[dict[str, Any]] = []
        try:
            for number, command in enumerate(commands, 1):
                socket.send(json.dumps({"id": number, **command}))
                replies += map(json.loads, str(socket.recv(timeout=20)).splitlines())
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0
        return replies


def user_of(server: LiveServer, *, token: str = "", cookie: str = "") -> str | int:
    """Return as whom one connects, by what a subscriber is told of itself; or the code of the refusal."""
    command = {"connect": {"token": token}} if token else {"connect": {}}
    replies = ask(server, command, {"subscribe": {"channel": "talk:1"}}, cookie=cookie)
    if isinstance(replies, int):
        return replies
    return "somebody" if "subscribe" in replies[1] else "nobody"


def sign_up(server: LiveServer, name: str) -> str:
    answer = server.post("/signup", json={"username": name, "password": "correct horse"})
    assert answer.status_code == 201
    token: str = answer.json()["token"]
    return token


def test_the_servers_accounts_connect_by_token_and_by_cookie(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text(ROOM)
    with LiveServer(tmp_path) as server:
        token = sign_up(server, "ann")
        assert user_of(server, token=token) == "somebody"
        assert user_of(server, cookie=token) == "somebody"
        assert user_of(server) == 3501
        assert user_of(server, cookie="wrong") == 3501
        assert user_of(server, token="wrong") == 3500
        assert user_of(server, token=jwt.encode({"sub": "ann"}, SECRET, "HS256")) == 3500


def test_a_stranger_does_not_sign_up_as_a_user_of_the_application(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text(KEYS + ROOM)
    with LiveServer(tmp_path) as server:
        token = sign_up(server, "42")
        assert user_of(server, token=jwt.encode({"sub": "42"}, SECRET, "HS256")) == "somebody"
        assert user_of(server, token=token) == 3500
        assert user_of(server, cookie=token) == 3501


def test_both_where_nobody_can_sign_up(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text("signup = false\n" + KEYS + ROOM)
    with LiveServer(tmp_path) as server:
        added = tidewire("user", "add", "ann", "--password-stdin", folder=tmp_path, stdin="correct horse\n")
        assert added.returncode == 0, added.stderr
        token = server.post("/login", json={"username": "ann", "password": "correct horse"}).json()["token"]
        assert user_of(server, token=token) == "somebody"
        assert user_of(server, token=jwt.encode({"sub": "bob"}, SECRET, "HS256")) == "somebody"


def test_strangers_where_they_may(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text("[client]\nallow_anonymous_connect_without_token = true\n" + KEYS + ROOM)
    with LiveServer(tmp_path) as server:
        assert user_of(server) == "nobody"
        expired = jwt.encode({"sub": "ann", "exp": 1}, SECRET, "HS256")
        replies = ask(server, {"connect": {"token": expired}})
        assert isinstance(replies, list)
        assert replies[0]["error"]["code"] == 109


def test_a_namespace_that_does_not_exist_and_the_chats_own_rooms(tmp_path: Path) -> None:
    (tmp_path / "tidewire.toml").write_text("[client]\ninsecure = true\n")
    with LiveServer(tmp_path) as server:
        names = ["free", "room:lobby", "events:lobby", "$user:ann", "$control"]
        replies = ask(server, {"connect": {}}, *({"subscribe": {"channel": name}} for name in names))
        assert isinstance(replies, list)
        codes = [reply.get("error", {}).get("code") for reply in replies[1:]]
        assert codes[:3] == [None, 102, 102]
        assert all(code in (102, 103) for code in codes[3:])


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ({}, True),
        ({"client": {"token": {"hmac_secret_key": "x"}}}, False),
        ({"client": {"token": {"jwks_public_endpoint": "https://id.example"}}}, False),
        ({"client": {"token": {"hmac_secret_key": "x"}}, "signup": False}, True),
        ({"client": {"token": {"hmac_secret_key": "x"}, "allow_accounts": True}}, True),
        ({"client": {"allow_accounts": False}}, False),
    ],
)
def test_when_accounts_are_accepted(given: dict[str, Any], accepted: bool) -> None:
    assert Settings(**given).accepts_accounts is accepted
