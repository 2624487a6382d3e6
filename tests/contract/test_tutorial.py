"""Rows A1 to A5: the tutorial's endpoints."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from socket import SHUT_WR
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from .chatting import Message, open_socket
from .conftest import StartServer
from .raw import RawSocket
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-tutorial")


async def text(socket: ClientConnection) -> str:
    """Return the next message, which is text."""
    async with asyncio.timeout(10):
        message = await socket.recv()
    assert isinstance(message, str)
    return message


async def event(socket: ClientConnection) -> Message:
    """Return the next message, which is JSON."""
    message: Message = json.loads(await text(socket))
    return message


async def refused(opening: Coroutine[Any, Any, ClientConnection]) -> int:
    """Return the HTTP status with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await opening
    return caught.value.response.status_code


# A1


def test_echo_text_and_bytes_in_any_mixture(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws") as socket:
            for round_ in range(30):
                await socket.send(f"hello {round_} ü 🌊")
                assert await text(socket) == f"Message text was: hello {round_} ü 🌊"
                data = bytes(range(256)) * round_
                await socket.send(data)
                assert await socket.recv() == data
            await socket.send("")
            assert await text(socket) == "Message text was: "

    asyncio.run(scenario())


def test_echo_keeps_the_order_of_what_is_sent_without_waiting(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws") as socket:
            for number in range(150):
                await socket.send(str(number))
            for number in range(150):
                assert await text(socket) == f"Message text was: {number}"

    asyncio.run(scenario())


# A2


@pytest.mark.parametrize(
    ("path", "cookie", "value"),
    [
        ("/items/foo/ws?token=some-token", None, "some-token"),
        ("/items/foo/ws", "fake-cookie", "fake-cookie"),
        ("/items/foo/ws?token=some-token", "fake-cookie", "fake-cookie"),
    ],
)
def test_items_say_what_the_dependency_found(server: Server, path: str, cookie: str | None, value: str) -> None:
    async def scenario() -> None:
        headers = {"Cookie": f"session={cookie}"} if cookie else {}
        async with await open_socket(server, path, additional_headers=headers) as socket:
            for data in ("Message 1", "Message 2"):
                await socket.send(data)
                assert await text(socket) == f"Session cookie or query token value is: {value}"
                assert await text(socket) == f"Message text was: {data}, for item ID: foo"

    asyncio.run(scenario())


def test_items_say_the_query_parameter_if_it_is_given(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/items/2/ws?token=t&q=3") as socket:
            await socket.send("hi")
            assert await text(socket) == "Session cookie or query token value is: t"
            assert await text(socket) == "Query parameter q is: 3"
            assert await text(socket) == "Message text was: hi, for item ID: 2"

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/items/foo/ws", "/items/foo/ws?q=3", "/items/foo/ws?token=t&q=baz"])
def test_items_refuse_a_handshake_without_credentials_or_with_a_bad_q(server: Server, path: str) -> None:
    assert asyncio.run(refused(open_socket(server, path))) == 403


def test_items_live_on_after_a_binary_frame(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/items/foo/ws?token=t") as socket:
            await socket.send(b"\xff\xfe")
            assert "not UTF-8" in await text(socket)
            await socket.send(b"as bytes")
            assert await text(socket) == "Session cookie or query token value is: t"
            assert await text(socket) == "Message text was: as bytes, for item ID: foo"

    asyncio.run(scenario())


# A3


def test_plain_chat_tells_the_sender_and_everyone(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws/1") as one, await open_socket(server, "/ws/2") as two:
            for said in ("hello", "again"):
                await one.send(said)
                answers = {await text(one), await text(one)}
                assert answers == {f"You wrote: {said}", f"Client #1 says: {said}"}
                assert await text(two) == f"Client #1 says: {said}"
            await two.close()
            assert await text(one) == "Client #2 left the chat"
            await one.send("alone")
            assert {await text(one), await text(one)} == {"You wrote: alone", "Client #1 says: alone"}

    asyncio.run(scenario())


def test_plain_chat_is_heard_by_who_has_just_connected(every_server: Server) -> None:
    async def scenario() -> None:
        for number in range(25):
            async with (
                await open_socket(every_server, f"/ws/{2 * number}", worker=every_server.next_worker()) as one,
                await open_socket(every_server, f"/ws/{2 * number + 1}", worker=every_server.next_worker()) as two,
            ):
                await one.send("can you hear me?")
                assert await heard(two, f"Client #{2 * number} says: can you hear me?")

    asyncio.run(scenario())


async def heard(socket: ClientConnection, words: str) -> bool:
    """Read until these words come."""
    while await text(socket) != words:
        pass
    return True


def test_plain_chat_tells_of_who_goes_right_after_its_handshake(every_server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(every_server, "/ws/0", worker=every_server.next_worker()) as one:
            for number in range(1, 25):
                brief = await open_socket(every_server, f"/ws/{number}", worker=every_server.next_worker())
                if number % 2:
                    brief.transport.abort()
                else:
                    await brief.close()
                assert await heard(one, f"Client #{number} left the chat")
                await brief.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_plain_chat_keeps_what_a_client_says_right_before_it_goes(every_server: Server, says_goodbye: bool) -> None:
    async def scenario() -> None:
        words = [f"word {number}" for number in range(5)]
        async with await open_socket(every_server, "/ws/100", worker=every_server.next_worker()) as one:
            for number in range(101, 111):
                expected = [f"Client #{number} says: {word}" for word in words] + [f"Client #{number} left the chat"]
                with RawSocket(every_server, f"/ws/{number}") as brief:
                    frames = [brief.frame(RawSocket.TEXT, word.encode()) for word in words]
                    if says_goodbye:
                        frames.append(brief.frame(RawSocket.CLOSE, struct.pack("!H", 1000)))
                    brief.socket.sendall(b"".join(frames))
                    brief.socket.shutdown(SHUT_WR)
                    told: list[str] = []
                    while len(told) < len(expected):
                        message = await text(one)
                        if message.startswith(f"Client #{number} "):  # others, of another test, may have just left
                            told.append(message)
                assert told == expected

    asyncio.run(scenario())


def test_plain_chat_tells_of_a_client_that_vanishes(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws/11") as one:
            lost = await open_socket(server, "/ws/12")
            lost.transport.abort()
            assert await text(one) == "Client #12 left the chat"
            await lost.wait_closed()

    asyncio.run(scenario())


def test_plain_chat_takes_binary_frames_as_text_or_says_what_is_wrong(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws/21") as one:
            await one.send(b"\x80\x81")
            assert "not UTF-8" in await text(one)
            await one.send(b"bytes")
            assert {await text(one), await text(one)} == {"You wrote: bytes", "Client #21 says: bytes"}

    asyncio.run(scenario())


def test_plain_chat_in_many_tabs(server: Server) -> None:
    async def scenario() -> None:
        sockets = [await open_socket(server, f"/ws/{number}") for number in range(100, 120)]
        await sockets[0].send("to all tabs")
        assert {await text(sockets[0]), await text(sockets[0])} == {
            "You wrote: to all tabs",
            "Client #100 says: to all tabs",
        }
        for socket in sockets[1:]:
            assert await text(socket) == "Client #100 says: to all tabs"
        for number, socket in enumerate(sockets[:-1], 100):
            await socket.close()
            assert await text(sockets[-1]) == f"Client #{number} left the chat"
        await sockets[-1].close()

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/ws/not-a-number", "/ws/json/not-a-number"])
def test_a_client_id_is_an_integer(server: Server, path: str) -> None:
    assert asyncio.run(refused(open_socket(server, path))) == 403


# A4


def assert_recent(timestamp: str) -> None:
    """Assert that this is a time in ISO 8601 with its zone, and is about now."""
    time = datetime.fromisoformat(timestamp)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_json_chat(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws/json/1") as one, await open_socket(server, "/ws/json/2") as two:
            await one.send('{"message": "hello"}')
            for socket in (one, two):
                said = await event(socket)
                assert_recent(said.pop("timestamp"))
                assert said == {"sender": 1, "content": "hello"}
            await two.send(b"{}")
            for socket in (one, two):
                said = await event(socket)
                assert (said["sender"], said["content"]) == (2, "Empty message")
            await two.close()
            left = await event(one)
            assert_recent(left.pop("timestamp"))
            assert left == {"sender": "system", "content": "Client #2 has left the chat."}

    asyncio.run(scenario())


def test_json_chat_tells_of_a_client_that_vanishes(server: Server) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws/json/31") as one:
            lost = await open_socket(server, "/ws/json/32")
            lost.transport.abort()
            assert (await event(one))["content"] == "Client #32 has left the chat."
            await lost.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/ws/json/41", "/ws/rooms/bad-input/41"])
def test_json_endpoints_answer_pings_and_bad_messages(server: Server, path: str) -> None:
    async def scenario() -> None:
        async with await open_socket(server, path) as socket:
            if "rooms" in path:
                await event(socket)
            await socket.send('{"type": "ping"}')
            assert await event(socket) == {"type": "pong"}
            bad: list[str | bytes] = ['{"message": 5}', '["a list"]', '{"message": "open', b"\xff\x00", b"5"]
            for message in bad:
                await socket.send(message)
                error = await event(socket)
                assert (error["type"], error["code"]) == ("error", "bad_request"), message
                assert '{"message": "hello"}' in error["content"] or "expected" in error["content"], error
            await socket.send('{"type": "dance"}')
            error = await event(socket)
            assert error["code"] == "unknown_type"
            assert "dance" in error["content"]
            await socket.send('{"message": "alive"}')
            assert (await event(socket)).get("content", "alive") == "alive"

    asyncio.run(scenario())


# A5


def test_rooms_tell_of_joins_messages_and_leaves_in_that_room_only(server: Server, room: str) -> None:
    async def scenario() -> None:
        async with (
            await open_socket(server, f"/ws/rooms/{room}/ann") as ann,
            await open_socket(server, f"/ws/rooms/other-{room}/eve") as eve,
        ):
            joined = await event(ann)
            assert (joined["type"], joined["user"]) == ("join", "ann")
            assert (await event(eve))["user"] == "eve"
            async with await open_socket(server, f"/ws/rooms/{room}/ben") as ben:
                for socket in (ann, ben):
                    joined = await event(socket)
                    assert (joined["type"], joined["user"]) == ("join", "ben")
                    assert isinstance(joined["msg"], str)
                await ben.send('{"msg": "hello"}')
                for socket in (ann, ben):
                    said = await event(socket)
                    assert (said["type"], said["user"], said["msg"]) == ("message", "ben", "hello")
                await ann.send("plain text")
                assert (await event(ben))["msg"] == (await event(ann))["msg"] == "plain text"
            left = await event(ann)
            assert (left["type"], left["user"]) == ("leave", "ben")
            assert isinstance(left["msg"], str)
            lost = await open_socket(server, f"/ws/rooms/{room}/cid")
            assert (await event(ann))["type"] == "join"
            lost.transport.abort()
            left = await event(ann)
            assert (left["type"], left["user"]) == ("leave", "cid")
            await lost.wait_closed()
            await eve.send("still here")
            assert (await event(eve))["msg"] == "still here"

    asyncio.run(scenario())


# The switch.


def test_the_tutorial_can_be_left_out(start_server: StartServer) -> None:
    server = start_server("--no-tutorial")
    for path in ("/ws", "/items/1/ws?token=t", "/ws/1", "/ws/json/1", "/ws/rooms/a/b"):
        assert asyncio.run(refused(open_socket(server, path))) in (403, 404), path
    assert server.http.get("/").status_code == 200


def test_the_tutorial_is_off_where_others_can_reach_the_server(start_server: StartServer) -> None:
    server = start_server("--host", "0.0.0.0")
    assert asyncio.run(refused(open_socket(server, "/ws"))) in (403, 404)
