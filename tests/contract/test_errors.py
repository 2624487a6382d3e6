"""Row A12: what is wrong is told, and a bug in a handler ends one connection and shows nothing of the inside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from .chatting import Chat, open_socket
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-errors")

INSIDE = "the secret inside of the application"


@pytest.fixture(scope="module")
def faulty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The ready server with a fault in it (see faulty.py), and endpoints that a user of the library may write."""
    app = Path(__file__).with_name("faulty.py")
    with Server(tmp_path_factory.mktemp("faulty"), app=app).running() as running:
        yield running


# What a client sends.


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        ('{"type": "chat"}', "bad_request", ["message"]),
        ('{"type": "chat", "message": 5}', "bad_request", ["str", "int"]),
        ('{"type": "chat", "message": null}', "bad_request", ["str", "null"]),
        ('{"type": "chat", "message": "x", "id": [1]}', "bad_request", ["id", "array"]),
        ('{"type": "private_chat", "message": "x"}', "bad_request", ["target_user"]),
        ('{"type": "join"}', "bad_request", ["room"]),
        ('{"type": "join", "room": "x", "since": -1}', "bad_request", ["since"]),
        ('{"type": "dance"}', "unknown_type", ["dance", "chat", "private_chat", "ping"]),
        ('{"message": "no type"}', "bad_request", ["type"]),
        ('{"type": 5}', "bad_request", ["type"]),
        ("{}", "bad_request", ["type"]),
        ('{"type": "chat", "message": "open', "bad_request", ["JSON"]),
        ("{'type': 'chat'}", "bad_request", ["JSON"]),
        ("[1, 2]", "bad_request", ["object"]),
        ("[]", "bad_request", ["object"]),
        (b"5", "bad_request", ["object"]),
        (b"\xff\xfe\x00garbage", "bad_request", ["JSON"]),
        (bytes(range(256)), "bad_request", ["JSON"]),
    ],
)
def test_a_bad_message_is_told_what_is_wrong_and_the_connection_lives_on(
    server: Server, room: str, sent: str | bytes, code: str, words: list[str]
) -> None:
    _, token = server.sign_up()
    _, other_token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token, room=room) as chat, Chat(server, other_token, room=room) as other:
            await chat.joined()
            await other.joined()
            await chat.socket.send(sent)
            error = await chat.expect("error")
            assert error["code"] == code, error
            for word in words:
                assert word in error["content"], error
            await chat.say("alive", id=1)
            await other.expect("chat_message", content="alive")
            assert not other.all("error")

    asyncio.run(scenario())


def test_an_error_with_an_id_is_of_that_message(server: Server, room: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token, room=room) as chat:
            await chat.joined()
            await chat.send("chat", message="into a room that is not joined", room=f"{room}-other", id="m-7")
            error = await chat.expect("error")
            assert (error["id"], error["room"], error["code"]) == ("m-7", f"{room}-other", "permission_denied")

    asyncio.run(scenario())


# What an application does.


def test_a_bug_in_the_chat_ends_one_connection_with_1011_and_is_logged(faulty_server: Server, room: str) -> None:
    ann, ann_token = faulty_server.sign_up()
    _, ben_token = faulty_server.sign_up()

    async def scenario() -> None:
        async with Chat(faulty_server, ben_token, room=room) as ben:
            await ben.joined()
            async with Chat(faulty_server, ann_token, room=room) as chat:
                await chat.joined()
                await chat.say("please fail")
                code, reason = await chat.closed()
                assert code == 1011
                assert INSIDE not in reason
                assert INSIDE not in json.dumps(chat.seen)
            told = await ben.expect("system", content=f"User '{ann}' disconnected due to an error.")
            assert told["room"] == room
            assert ann not in await ben.who()
            await ben.say("the room lives")
            await ben.expect("chat_message", content="the room lives")
            assert [message for message in ben.all("system") if "has left" in message["content"]] == []

    asyncio.run(scenario())
    log = faulty_server.log()
    assert "Traceback" in log
    assert f"RuntimeError: {INSIDE}" in log


def test_a_bug_in_the_tutorial_chats_is_told_to_the_others(faulty_server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(faulty_server, "/ws/1") as one, await open_socket(faulty_server, "/ws/2") as two:
            await two.send("please fail")
            assert await two.recv() == "You wrote: please fail"
            with pytest.raises(ConnectionClosedError, match="1011") as caught:
                await two.recv()
            assert INSIDE not in str(caught.value)
            assert await one.recv() == "Client #2 left the chat"
        async with (
            await open_socket(faulty_server, "/ws/json/1") as one,
            await open_socket(faulty_server, "/ws/json/2") as two,
        ):
            await two.send('{"message": "please fail"}')
            with pytest.raises(ConnectionClosedError, match="1011"):
                await two.recv()
            told = json.loads(await one.recv())
            assert (told["sender"], told["content"]) == ("system", "Client #2 disconnected due to an error.")

    asyncio.run(scenario())


def test_who_has_another_device_does_not_leave_by_a_bug(faulty_server: Server, room: str) -> None:
    ann, ann_token = faulty_server.sign_up()
    _, ben_token = faulty_server.sign_up()

    async def scenario() -> None:
        async with (
            Chat(faulty_server, ben_token, room=room) as ben,
            Chat(faulty_server, ann_token, room=room) as phone,
        ):
            await ben.joined()
            await phone.joined()
            async with Chat(faulty_server, ann_token, room=room) as laptop:
                await laptop.joined()
                await laptop.say("please fail")
                assert (await laptop.closed())[0] == 1011
            await phone.say("a marker")
            await ben.expect("chat_message", content="a marker")
            assert ann in await ben.who()
            assert not [m for m in ben.all("system") if "error" in m["content"] or "left" in m["content"]]

    asyncio.run(scenario())


def test_sending_before_accept_or_after_the_end_raises_one_clear_error(faulty_server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(faulty_server, "/early") as socket:
            assert await socket.recv() == (
                "TidewireError: this connection is not accepted yet; "
                "write `async with hub.connect(websocket) as connection:`"
            )
            assert "WebSocket is not connected" in str(await socket.recv())

    asyncio.run(scenario())


# Dependencies (row A2).


def test_every_kind_of_dependency_works(faulty_server: Server) -> None:
    headers = {"X-Agent": "a test", "Cookie": "session=s1"}

    async def scenario() -> None:
        async with await open_socket(
            faulty_server, "/everything/3?token=valid&limit=7", additional_headers=headers
        ) as socket:
            answer = json.loads(await socket.recv())
            assert answer == [3, "user with read write", "a test", "s1", 7, "from a dependency"]
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (1000, "done")
        assert "ConnectionClosed: the connection has ended (code 1000: done)" in faulty_server.http.get("/late").text

    asyncio.run(scenario())


@pytest.mark.parametrize("query", ["0?token=valid", "3?token=stolen", "3", "3?token=valid&limit=11"])
def test_a_dependency_that_says_no_refuses_the_handshake(faulty_server: Server, query: str) -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidStatus) as caught:
            await open_socket(
                faulty_server, f"/everything/{query}", additional_headers={"X-Agent": "a", "Cookie": "session=s"}
            )
        assert caught.value.response.status_code == 403

    asyncio.run(scenario())
