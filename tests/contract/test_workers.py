"""Two workers: what a killed one leaves behind (that section B holds across two is in test_chat.py)."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import pytest

from .chatting import ANY_WORKER, Chat, Message
from .conftest import StartServer
from .serving import until

pytestmark = pytest.mark.xdist_group("contract-workers")

#: Seconds within which who was on a dead worker has left.
GONE = 15.0


@pytest.mark.parametrize(
    "signum",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGSTOP, id="frozen", marks=pytest.mark.slow),
    ],
)
def test_the_users_of_a_dead_worker_leave_unless_they_come_back(
    start_server: StartServer, room: str, signum: signal.Signals
) -> None:
    server = start_server(broker="sqlite:///tidewire.db", workers=2)
    doomed, safe = server.worker_pids()
    ann, ann_token = server.sign_up()
    ben, ben_token = server.sign_up()
    eve, eve_token = server.sign_up()
    watcher_name, watcher_token = server.sign_up()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(Chat(server, watcher_token, room=room, worker=safe))
            await watcher.joined()
            lost = [Chat(server, token, room=room, worker=doomed) for token in (ann_token, ben_token, eve_token)]
            for chat in lost:
                await chat.open()
                await chat.joined()
            # Eve has a second device on the other worker: she never leaves.
            await stack.enter_async_context(Chat(server, eve_token, room=room, worker=safe))
            assert set(await watcher.who()) == {watcher_name, ann, ben, eve}
            os.kill(doomed, signum)
            for chat in lost:
                assert (await chat.closed(within=15))[0] in (1006, 1012)
            # Ben comes back at once, so he never was away; Ann does not.
            back = await stack.enter_async_context(Chat(server, ben_token, room=room, worker=safe))
            await back.joined()
            await watcher.expect("system", within=GONE, content=f"User '{ann}' has left the chat.")
            assert set(await watcher.who()) == {watcher_name, ben, eve}
            await back.say("a marker")
            await watcher.expect("chat_message", content="a marker")
            told = [message["content"] for message in watcher.all("system")]
            for name in (ann, ben, eve):
                assert told.count(f"User '{name}' has joined the chat.") == 1
            assert [content for content in told if "has left" in content] == [f"User '{ann}' has left the chat."]

    asyncio.run(scenario())
    until(lambda: len(server.worker_pids()) == 2 and doomed not in server.worker_pids(), 15, what="a new worker")


def test_a_replaced_worker_serves_the_same_rooms(start_server: StartServer, room: str) -> None:
    server = start_server(broker="sqlite:///tidewire.db", workers=2)
    doomed, safe = server.worker_pids()
    _, token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, token, room=room, worker=safe) as chat:
            await chat.joined()
            await chat.say("before")
            await chat.expect("chat_message", content="before")
            os.kill(doomed, signal.SIGKILL)
            await chat.say("meanwhile")
            await chat.expect("chat_message", content="meanwhile")
            new = await asyncio.to_thread(
                until,
                lambda: [pid for pid in server.worker_pids() if pid not in (doomed, safe)],
                20,
                what="a new worker",
            )
            async with Chat(server, token, room=room, worker=new[0]) as other:
                history = await other.joined()
                assert [message["content"] for message in history["messages"]] == ["before", "meanwhile"]
                await other.say("from the new one")
                await chat.expect("chat_message", content="from the new one")
                await chat.say("from the old one")
                await other.expect("chat_message", content="from the old one")

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_restart_tells_everybody_to_come_back_and_nobody_leaves(start_server: StartServer, room: str) -> None:
    """SIGHUP replaces the workers one after another: 1012, spread over the drain, and no joins or leaves."""
    server = start_server(broker="sqlite:///tidewire.db", workers=2, limits={"drain_seconds": 1})
    old = set(server.worker_pids())
    users = [server.sign_up() for _ in range(4)]
    chats: list[Chat] = []

    async def stay(token: str) -> None:
        while True:
            chat = Chat(server, token, room=room, worker=ANY_WORKER)
            chats.append(chat)
            await chat.open()
            assert (await chat.closed(within=60))[0] == 1012

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            staying = [group.create_task(stay(token)) for _, token in users]
            async with asyncio.timeout(20):
                while sum(len(chat.all("online")) for chat in chats) < len(users):
                    await asyncio.sleep(0.02)
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(until, lambda: not old & set(server.worker_pids()), 40, what="new workers")
            async with Chat(server, users[0][1], room=room, worker=ANY_WORKER) as watcher:
                async with asyncio.timeout(20):
                    while set(await watcher.who()) != {name for name, _ in users}:
                        await asyncio.sleep(0.05)
                told = {content for chat in chats for content in map(_content, chat.all("system"))}
            for task in staying:
                task.cancel()
        assert len(chats) > len(users), "they were told to come back"
        assert told == {f"User '{name}' has joined the chat." for name, _ in users}

    asyncio.run(scenario())


def _content(message: Message) -> str:
    return str(message["content"])
