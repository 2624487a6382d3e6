"""Rows A6 to A8: from a name and a password to an authenticated connection."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from .chatting import Chat, open_socket
from .conftest import StartServer
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-accounts")

GOOD = "a good password"


# A6


@pytest.mark.parametrize("form", [False, True])
def test_login_gives_a_token_for_a_name_and_a_password(server: Server, form: bool) -> None:
    name, _ = server.sign_up(password=GOOD)
    credentials = {"username": name, "password": GOOD}
    answer = server.http.post("/login", data=credentials) if form else server.http.post("/login", json=credentials)
    assert answer.status_code == 200
    body = answer.json()
    assert body == {"token": body["token"], "access_token": body["token"], "token_type": "bearer"}
    assert answer.headers["cache-control"] == "no-store"
    me = server.http.get("/me", headers={"Authorization": f"Bearer {body['token']}"})
    assert (me.status_code, me.json()) == (200, {"username": name})


def test_login_says_the_same_for_a_wrong_name_and_a_wrong_password(server: Server) -> None:
    name, _ = server.sign_up()
    wrong = [{"username": name, "password": "another password"}, {"username": "nobody-here", "password": GOOD}]
    answers = [server.http.post("/login", json=credentials) for credentials in wrong]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json() == answers[1].json() == {"detail": "Invalid credentials"}


def test_credentials_in_the_query_are_not_taken(server: Server) -> None:
    name, _ = server.sign_up(password=GOOD)
    answer = server.http.post("/login", params={"username": name, "password": GOOD})
    assert answer.status_code == 422
    assert GOOD not in answer.text


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"username": 5, "password": []}', b"\xff", b"[" * 5_000])
def test_login_refuses_other_bodies_with_what_it_expects(server: Server, body: bytes) -> None:
    answer = server.http.post("/login", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "username" in answer.json()["detail"]


def test_login_refuses_a_huge_body(server: Server) -> None:
    body = json.dumps({"username": "x", "password": "y" * 1_000_000}).encode()
    assert server.http.post("/login", content=body).status_code == 413


def test_signup_refuses_taken_and_bad_names_and_weak_passwords(server: Server) -> None:
    name, _ = server.sign_up()

    def detail(status: int, username: str, password: str = GOOD) -> str:
        answer = server.http.post("/signup", json={"username": username, "password": password})
        assert answer.status_code == status, answer.text
        assert password not in answer.text
        text = answer.json()["detail"]
        assert isinstance(text, str)
        return text

    assert "is taken" in detail(409, name)
    assert "is taken" in detail(409, name.upper())
    for bad in ("", "x" * 33, "with space", "a/b", "a\nb", "<b>"):
        assert "name" in detail(422, bad)
    assert "8" in detail(422, "fine-name", "short")


def test_failed_logins_are_throttled_for_that_name_only(start_server: StartServer) -> None:
    server = start_server()
    server.sign_up("ann", GOOD)
    server.sign_up("ben", GOOD)
    for _ in range(20):
        answer = server.http.post("/login", json={"username": "ann", "password": "a wrong guess"})
        if answer.status_code == 429:
            break
        assert answer.status_code == 401
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert server.http.post("/login", json={"username": "ben", "password": GOOD}).status_code == 200


def test_signing_up_can_be_switched_off(start_server: StartServer) -> None:
    server = start_server("--no-signup")
    assert server.http.post("/signup", json={"username": "ann", "password": GOOD}).status_code == 403


# A7


@pytest.mark.parametrize("way", ["query", "header", "cookie", "message"])
def test_a_token_is_taken_in_four_ways(server: Server, way: str, room: str) -> None:
    name, token = server.sign_up()
    path = f"/ws/auth?room={room}" + (f"&token={token}" if way == "query" else "")
    headers = {
        "header": {"Authorization": f"Bearer {token}"},
        "cookie": {"Cookie": f"theme=dark; token={token}"},
    }.get(way, {})

    async def scenario() -> None:
        async with await open_socket(server, path, additional_headers=headers) as socket:
            if way == "message":
                await socket.send(json.dumps({"type": "auth", "token": token}))
            types = []
            while "online" not in types:
                message = json.loads(await asyncio.wait_for(socket.recv(), 10))
                types.append(message["type"])
            assert types[0] == "history"
            assert message["users"] == [name]

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["query", "header", "cookie"])
def test_an_invalid_token_is_refused_in_the_handshake(server: Server, way: str) -> None:
    path = "/ws/auth" + ("?token=not.a.token" if way == "query" else "")
    headers = {"header": {"Authorization": "Bearer not.a.token"}, "cookie": {"Cookie": "token=not.a.token"}}.get(way)

    async def scenario() -> None:
        with pytest.raises(InvalidStatus) as caught:
            await open_socket(server, path, additional_headers=headers)
        assert caught.value.response.status_code == 403

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "first",
    [
        '{"type": "auth", "token": "not.a.token"}',
        '{"type": "auth"}',
        '{"type": "chat", "message": "let me in"}',
        "hello",
        b"\xff\x00",
        "[" * 50_000,
    ],
)
def test_a_first_message_without_a_valid_token_closes_with_1008(server: Server, first: str | bytes) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws/auth") as socket:
            await socket.send(first)
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_code == 1008
            assert socket.close_reason

    asyncio.run(scenario())


def test_who_does_not_authenticate_in_time_is_closed_with_1008(start_server: StartServer) -> None:
    server = start_server(limits={"auth_seconds": 0.5})

    async def scenario() -> None:
        async with await open_socket(server, "/ws/auth") as socket:
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert (socket.close_code, socket.close_reason) == (1008, "not authenticated in time")

    asyncio.run(scenario())


def test_nothing_is_told_to_who_is_not_authenticated(server: Server) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with await open_socket(server, "/ws/auth") as stranger, Chat(server, token) as chat:
            await chat.joined()
            await chat.say("a secret of the lobby")
            await chat.expect("chat_message", content="a secret of the lobby")
            await stranger.send('{"type": "auth", "token": "wrong"}')
            with pytest.raises(ConnectionClosedError, match="1008"):
                await asyncio.wait_for(stranger.recv(), 10)

    asyncio.run(scenario())


def test_an_authentication_as_somebody_else_is_an_error(server: Server, room: str) -> None:
    name, own = server.sign_up()
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, own, room=room) as chat:
            await chat.joined()
            await chat.send("auth", token=token)
            error = await chat.expect("error", code="bad_request")
            assert name in error["content"]
            assert token not in error["content"]
            await chat.settle()

    asyncio.run(scenario())


def test_a_removed_user_is_refused_with_an_old_token(start_server: StartServer) -> None:
    server = start_server()
    server.sign_up("ann", GOOD)
    token = server.http.post("/login", json={"username": "ann", "password": GOOD}).json()["token"]
    assert server.tidewire("user", "remove", "ann").returncode == 0
    assert server.http.get("/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401

    async def scenario() -> None:
        with pytest.raises(InvalidStatus):
            await open_socket(server, f"/ws/auth?token={token}")

    asyncio.run(scenario())


# A8


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (["chat"], "chat"),
        (["notifications"], "notifications"),
        (["chat", "notifications"], "chat"),
        (["notifications", "chat"], "notifications"),
        (["unknown", "chat"], "chat"),
        (["Chat", "notifications"], "notifications"),
    ],
)
def test_the_first_subprotocol_that_the_server_has_is_chosen(server: Server, asked: list[str], chosen: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with await open_socket(server, f"/ws/subprotocol?token={token}", subprotocols=asked) as socket:
            assert socket.subprotocol == chosen

    asyncio.run(scenario())


def test_the_subprotocol_chat_is_the_chat(server: Server) -> None:
    name, token = server.sign_up()

    async def scenario() -> None:
        async with await open_socket(server, "/ws/subprotocol", subprotocols=["chat"]) as socket:
            await socket.send(json.dumps({"type": "auth", "token": token}))
            assert json.loads(await socket.recv())["type"] == "history"
            await socket.send(json.dumps({"type": "chat", "message": "by subprotocol", "id": 7}))
            async with asyncio.timeout(10):
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] == "chat_message":
                        break
            assert (message["sender"], message["content"], message["id"]) == (name, "by subprotocol", 7)

    asyncio.run(scenario())


def test_the_subprotocol_notifications_is_what_is_sent_to_this_user(server: Server, room: str) -> None:
    ann, ann_token = server.sign_up()
    ben, ben_token = server.sign_up()
    path = f"/ws/subprotocol?token={ann_token}"

    async def scenario() -> None:
        async with (
            await open_socket(server, path, subprotocols=["notifications"]) as stream,
            Chat(server, ben_token, room=room) as chat,
        ):
            await chat.joined()
            await stream.send('{"type": "chat", "message": "what is said here is not heard"}')
            await chat.say("to the room")
            await chat.expect("chat_message", content="to the room")
            await chat.send("private_chat", target_user=ann, message="for you")
            await chat.expect("system", content=f"Private message sent to {ann}.")
            message = json.loads(await asyncio.wait_for(stream.recv(), 10))
            assert message["type"] == "private_chat_message"
            assert (message["sender"], message["content"]) == (ben, "for you")

    asyncio.run(scenario())


@pytest.mark.parametrize("asked", [["unknown"], None])
def test_without_a_known_subprotocol_none_is_chosen_and_an_error_names_those_on_offer(
    server: Server, asked: list[str] | None
) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with await open_socket(server, f"/ws/subprotocol?token={token}", subprotocols=asked) as socket:
            assert socket.subprotocol is None
            assert socket.response is not None
            assert "Sec-WebSocket-Protocol" not in socket.response.headers
            error = json.loads(await socket.recv())
            assert error["type"] == "error"
            assert "chat, notifications" in error["content"]

    asyncio.run(scenario())
