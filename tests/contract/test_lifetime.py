"""How long a login lasts: a connection ends with its token, unless a newer one comes, and with its account."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest

from .chatting import ANY_WORKER, Chat
from .conftest import StartServer

pytestmark = pytest.mark.xdist_group("contract-accounts")


def test_a_connection_ends_with_its_token(start_server: StartServer, room: str) -> None:
    server = start_server(broker="sqlite:///tidewire.db")
    name, _ = server.sign_up()
    short = server.tidewire("token", name, "--ttl", "6").stdout.strip()
    ends = json.loads(base64.urlsafe_b64decode(short.split(".")[1] + "=="))["exp"]

    async def scenario() -> None:
        async with Chat(server, short, room=room) as chat:
            await chat.joined()
            assert await chat.closed(within=10) == (1008, "token expired; come back with another")

    asyncio.run(scenario())
    assert time.time() >= ends, "not before"


def test_a_newer_token_prolongs_it_and_one_of_somebody_else_does_not(start_server: StartServer, room: str) -> None:
    server = start_server(broker="sqlite:///tidewire.db")
    name, long = server.sign_up()
    _, of_another = server.sign_up()
    short = server.tidewire("token", name, "--ttl", "6").stdout.strip()
    ends = time.time() + 6

    async def scenario() -> None:
        async with Chat(server, short, room=room) as chat:
            await chat.joined()
            for wrong in (of_another, "nonsense"):
                await chat.send("auth", token=wrong)
                await chat.expect("error", code="bad_request")
            await chat.send("auth", token=long)
            while time.time() < ends + 1:
                await chat.send("ping")
                await chat.expect("pong")
                await asyncio.sleep(0.2)

    asyncio.run(scenario())


def test_the_connections_of_a_removed_user_end_on_every_worker(start_server: StartServer, room: str) -> None:
    server = start_server(broker="sqlite:///tidewire.db", workers=2)
    name, token = server.sign_up()
    _, other = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, other, room=room, worker=ANY_WORKER) as stays:
            await stays.joined()
            gone = [Chat(server, token, room=room, worker=ANY_WORKER) for _ in range(2)]
            for chat in gone:
                await chat.open()
                await chat.joined()
            done = await asyncio.to_thread(server.tidewire, "user", "remove", name, "--broker", "sqlite:///tidewire.db")
            assert done.returncode == 0, done.stderr
            for chat in gone:
                code, reason = await chat.closed()
                assert (code, "log in again" in reason) == (1008, True)
            await stays.expect("system", content=f"User '{name}' has left the chat.")

    asyncio.run(scenario())
