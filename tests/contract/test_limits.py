"""Rows A10 and A11: too many connections, and peers that are gone without a word."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from .chatting import Chat, open_socket
from .conftest import StartServer
from .raw import RawSocket
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-limits")

#: Connections of the small server, and how many more are tried.
SEATS, OVER = 20, 200


# A10


def test_200_connections_over_the_limit_are_refused_and_disturb_nobody(start_server: StartServer) -> None:
    server = start_server(limits={"connections": SEATS})

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            inside = [await stack.enter_async_context(await open_socket(server, "/ws")) for _ in range(SEATS)]
            outcomes = [await _refusal(server, browser=number % 2 == 0) for number in range(OVER)]
            assert set(outcomes) == {"503", "1013"}
            await _echo(inside)
            assert server.http.get("/healthz").status_code == 200
            await inside.pop().close()
            async with await _seat(server) as newcomer:
                await _echo([newcomer, *inside])

    asyncio.run(scenario())


async def _refusal(server: Server, *, browser: bool) -> str:
    """Try to come in, assert that one can read why not, and return how it was said."""
    if browser:
        async with await open_socket(server, "/ws", origin=f"http://127.0.0.1:{server.port}") as socket:
            await asyncio.wait_for(socket.wait_closed(), 10)
            assert socket.close_reason == "Too many connections"
            return str(socket.close_code)
    with pytest.raises(InvalidStatus) as caught:
        await open_socket(server, "/ws")
    response = caught.value.response
    assert b"Too many connections" in (response.body or b"")
    assert int(response.headers["Retry-After"]) > 0
    return str(response.status_code)


async def _seat(server: Server) -> ClientConnection:
    async with asyncio.timeout(10):
        while True:
            try:
                return await open_socket(server, "/ws")
            except InvalidStatus:
                continue


async def _echo(sockets: list[ClientConnection]) -> None:
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
        assert await asyncio.wait_for(socket.recv(), 10) == f"Message text was: {number}"


@pytest.mark.parametrize("first_message", [False, True])
def test_a_user_has_so_many_connections_and_others_are_not_disturbed(
    start_server: StartServer, first_message: bool
) -> None:
    server = start_server(limits={"connections_per_user": 3})
    _, ann = server.sign_up()
    _, ben = server.sign_up()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            devices = [await stack.enter_async_context(Chat(server, ann)) for _ in range(3)]
            for device in devices:
                await device.joined()
            if first_message:
                async with await open_socket(server, "/ws/auth") as fourth:
                    await fourth.send(json.dumps({"type": "auth", "token": ann}))
                    await asyncio.wait_for(fourth.wait_closed(), 10)
                    assert (fourth.close_code, fourth.close_reason) == (1013, "Too many connections")
            else:
                with pytest.raises(InvalidStatus) as caught:
                    await Chat(server, ann).open()
                assert caught.value.response.status_code == 503
            async with Chat(server, ben) as other:
                await other.joined()
                await other.say("hello")
                for device in devices:
                    await device.expect("chat_message", content="hello")

    asyncio.run(scenario())


# A11


def test_the_server_pings_and_keeps_who_answers(start_server: StartServer) -> None:
    server = start_server(limits={"ping_seconds": 0.5, "pong_seconds": 0.5})
    with RawSocket(server, "/ws/1") as answering:
        for _ in range(4):
            assert answering.next_frame(within=5).opcode == RawSocket.PING
            answering.send_frame(RawSocket.PONG, b"")
        answering.send_text("alive")
        answers = {answering.next_message().decode(), answering.next_message().decode()}
        assert answers == {"You wrote: alive", "Client #1 says: alive"}


def test_who_does_not_answer_pings_has_left(start_server: StartServer) -> None:
    server = start_server(limits={"ping_seconds": 1, "pong_seconds": 1})
    ann, ann_token = server.sign_up()
    _, ben_token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, ben_token) as ben:
            await ben.joined()
            with RawSocket(server, f"/ws/auth?token={ann_token}"):
                await ben.expect("system", content=f"User '{ann}' has joined the chat.")
                await ben.expect("system", content=f"User '{ann}' has left the chat.", within=4)
            assert ann not in await ben.who()

    asyncio.run(scenario())


def test_a_message_ping_is_answered(server: Server, room: str) -> None:
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token, room=room) as chat:
            await chat.joined()
            await chat.send("ping")
            assert await chat.receive() == {"type": "pong"}

    asyncio.run(scenario())
