"""Bad input: a clear error each, nobody else disturbed, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import struct
from collections.abc import AsyncIterator

import pytest
from websockets.exceptions import ConnectionClosed

from .chatting import Chat, open_socket, said
from .conftest import StartServer
from .raw import RawSocket
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-bad-input")

MEBIBYTE = 1_048_576


@contextlib.asynccontextmanager
async def bystanders(server: Server, room: str) -> AsyncIterator[None]:
    """Two others talk while the block does its worst; assert that they miss nothing and see no error."""
    _, ann_token = server.sign_up()
    _, ben_token = server.sign_up()
    async with Chat(server, ann_token, room=room) as ann, Chat(server, ben_token, room=room) as ben:
        await ann.joined()
        await ben.joined()
        await ann.say("before")
        await ben.expect("chat_message", content="before")
        yield
        await ben.say("after")
        await ann.expect("chat_message", content="after")
        for chat in (ann, ben):
            await chat.settle()
            assert not chat.all("error")
            assert said(chat.seen).count("before") == said(chat.seen).count("after") == 1


@pytest.mark.parametrize("path", ["/ws", "/ws/1", "/ws/json/1", "/ws/rooms/huge/1", "/ws/auth"])
def test_a_10_megabyte_message_closes_with_1009_and_takes_no_memory(server: Server, room: str, path: str) -> None:
    _, token = server.sign_up()
    headers = {"Authorization": f"Bearer {token}"} if path == "/ws/auth" else {}

    async def scenario() -> None:
        async with bystanders(server, room):
            before = server.resident()
            socket = await open_socket(server, path, additional_headers=headers)
            with contextlib.suppress(ConnectionClosed):
                await socket.send("x" * 10 * MEBIBYTE)
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_code == 1009
            assert server.resident() < before + 8

    asyncio.run(scenario())


def test_a_message_of_the_limit_is_taken_and_one_byte_more_is_not(server: Server, room: str) -> None:
    async def scenario() -> None:
        async with await open_socket(server, "/ws") as socket:
            await socket.send("x" * 65_536)
            assert len(await socket.recv()) == 65_536 + len("Message text was: ")
            await socket.send("x" * 65_537)
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_code == 1009

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("garbage", "codes"),
    [
        (os.urandom(4_096), (1002, 1006, 1009)),
        (b"\x00" * 4_096, (1002, 1006)),
        (b"\xff" * 4_096, (1002, 1006)),
        (b"GET / HTTP/1.1\r\n\r\n", (1002, 1006)),
        (b"\x81\x05hello", (1002,)),  # not masked
        (b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"mask", (1009,)),  # says that a TiB follows
        (b"\x89\xfe\x00\x80mask" + b"x" * 128, (1002,)),  # a ping of 128 bytes
        (b"\xc1\x80mask", (1002,)),  # a reserved bit
        (b"\x83\x80mask", (1002,)),  # a reserved opcode
        (b"\x80\x80mask", (1002,)),  # a continuation of nothing
    ],
    ids=["random", "zeros", "ones", "http", "unmasked", "tebibyte", "long-ping", "reserved", "opcode", "continuation"],
)
def test_garbage_instead_of_frames_ends_that_connection_only(
    server: Server, room: str, garbage: bytes, codes: tuple[int, ...]
) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room):
            await asyncio.to_thread(throw)

    def throw() -> None:
        with RawSocket(server, f"/ws/auth?token={token}&room={room}") as socket:
            with contextlib.suppress(ConnectionError):
                socket.socket.sendall(garbage)
            assert socket.closed() in codes

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [b"\xff\xfe", b"ab\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"])
def test_text_that_is_not_utf_8_closes_with_1007(server: Server, room: str, data: bytes) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room):
            await asyncio.to_thread(throw)

    def throw() -> None:
        with RawSocket(server, f"/ws/auth?token={token}&room={room}") as socket:
            socket.send_frame(RawSocket.TEXT, data)
            assert socket.closed() == 1007

    asyncio.run(scenario())


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff\\ud800", "x\\udc00y"])
def test_half_a_character_is_replaced_and_breaks_nobody(server: Server, room: str, half: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room), Chat(server, token, room=room) as chat:
            await chat.joined()
            for text in (
                f'{{"type": "private_chat", "target_user": "{half}", "message": "x"}}',
                f'{{"type": "chat", "room": "{room}", "message": "{half}", "id": "{half}"}}',
            ):
                await chat.socket.send(text)
            shown = re.sub(r"\\ud[89a-f]..", "\ufffd", half)
            assert (await chat.expect("chat_message"))["content"] == shown

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "join", "room": "\\ud800"}',
        '{"type": "\\ud800"}',
        '{"type": "chat", "message": NaN}',
        '{"type": "chat", "message": "x", "id": 1e999}',
        '{"type": "chat", "message": "x", "id": 1.5}',
        '{"type": "chat", "message": "x", "extra": ' + "[" * 65 + "]" * 65 + "}",
        '{"type": "chat", "message": "x", "extra": ' + "[" * 900 + "]" * 900 + "}",
        '{"type": "chat", "message": "x", "extra": ' + "[" * 20_000 + "]" * 20_000 + "}",
        '{"a":' * 10_000,
        '{"a": [' * 8_000,
    ],
)
def test_json_that_breaks_others_is_an_error_here(server: Server, room: str, text: str) -> None:
    """Lone surrogates, numbers that are none, and nesting that exhausts a parser."""
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room), Chat(server, token, room=room) as chat:
            await chat.joined()
            await chat.socket.send(text)
            error = await chat.expect("error")
            assert error["code"] in ("bad_request", "unknown_type")
            assert len(error["content"]) < 1_000
            assert "x" not in said(await chat.settle())

    asyncio.run(scenario())


def test_ids_of_every_kind_are_taken_or_refused_clearly(server: Server, room: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room), Chat(server, token, room=room) as chat:
            await chat.joined()
            for id_ in ("x" * 60_000, "a\nb\x00c", 0, -1, 2**53, 2**63, 10**18, "ü" * 1_000, "$:*"):
                await chat.say("hello", id=id_)
                async with asyncio.timeout(10):
                    while True:
                        message = await chat.receive()
                        if message["type"] == "error":
                            assert message["code"] in ("bad_request", "limit_exceeded")
                            break
                        if message["type"] == "chat_message" and message.get("id") == id_:
                            break

    asyncio.run(scenario())


def test_a_flood_is_told_and_then_ended_and_nobody_else_is_slowed(start_server: StartServer, room: str) -> None:
    server = start_server(limits={"rate": 10, "burst": 20})
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room), Chat(server, token, room=room) as chat:
            await chat.joined()
            with contextlib.suppress(ConnectionClosed):
                for number in range(200):
                    await chat.say(str(number), id=number)
            assert (await chat.closed())[0] == 1008
            errors = chat.all("error")
            assert {error["code"] for error in errors} == {"rate_limited"}
            refused = {error["id"] for error in errors}
            assert len(refused) == 20
        async with Chat(server, token, room=room) as chat:
            kept = [message["id"] for message in (await chat.joined())["messages"] if "id" in message]
            assert kept == list(range(len(kept)))
            assert len(kept) <= 40
            assert not refused.intersection(kept), "what was refused was not published"

    asyncio.run(scenario())


def test_many_channels_of_one_connection_are_limited(start_server: StartServer) -> None:
    server = start_server(limits={"channels": 9})
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token) as chat:
            await chat.joined()
            for number in range(10):
                await chat.send("join", room=f"room-{number}")
            while not chat.all("error"):
                await chat.receive()
            error = chat.all("error")[0]
            assert error["code"] == "limit_exceeded"
            room = error["room"]
            await chat.settle()
            # What could not be joined whole is not joined at all.
            await chat.send("chat", message="hello?", room=room)
            assert (await chat.expect("error", room=room))["code"] == "permission_denied"
            await chat.say("the lobby lives")
            await chat.expect("chat_message", content="the lobby lives")
            await chat.send("leave", room="room-0")
            await chat.expect("left", room="room-0")
            await chat.send("join", room=room)
            await chat.expect("online", room=room)

    asyncio.run(scenario())


def test_fragments_without_end_close_with_1009(server: Server, room: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with bystanders(server, room):
            await asyncio.to_thread(throw)

    def throw() -> None:
        with RawSocket(server, f"/ws/auth?token={token}&room={room}") as socket:
            socket.send_frame(RawSocket.TEXT, b"{", fin=False)
            with contextlib.suppress(ConnectionError):
                for _ in range(5_000):
                    socket.send_frame(RawSocket.CONTINUATION, b"", fin=False)
            assert socket.closed() in (1009, 1006)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200),
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: short\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n",
        b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["tls", "no-key", "short-key", "post", "long-path"],
)
def test_what_is_no_handshake_gets_an_http_error(server: Server, room: str, request_: bytes) -> None:
    async def scenario() -> None:
        async with bystanders(server, room):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(request_)
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(100), 10)
                assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
            writer.close()

    asyncio.run(scenario())


def test_errors_show_a_bounded_part_of_what_was_sent(server: Server, room: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token, room=room) as chat:
            await chat.joined()
            for text in (
                json.dumps({"type": "x" * 60_000}),
                json.dumps({"type": "join", "room": "y" * 60_000}),
                json.dumps({"type": "leave", "room": "z" * 60_000}),
            ):
                await chat.socket.send(text)
                error = await chat.expect("error")
                assert len(error["content"]) < 500

    asyncio.run(scenario())
