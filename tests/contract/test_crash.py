"""`kill -9` in the middle of traffic: what was acknowledged is there, once and in order; the rest can be sent again."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from .chatting import Chat, Message
from .conftest import FAST, StartServer
from .serving import Server

pytestmark = pytest.mark.xdist_group("contract-crash")

MESSAGES = 200
#: Messages that a sender has sent and that are not acknowledged yet.
IN_FLIGHT = 20


class Sender:
    """Sends numbered messages, some at a time, and sends again what was not acknowledged."""

    def __init__(self, server: Server, token: str, room: str, *, prefix: str = "m", worker: int | None = None) -> None:
        self._server, self._token, self._room = server, token, room
        self.worker = worker
        self.ids = [f"{prefix}-{number}" for number in range(MESSAGES)]
        #: What the sender saw come back with its id, in that order.
        self.acknowledged: dict[str, Message] = {}
        self._epoch = ""

    async def send_all(self) -> bool:
        """Send what is not acknowledged; False when the connection was lost before all of it was."""
        position: dict[str, Any] = {}
        if self.acknowledged:
            last = max(message["offset"] for message in self.acknowledged.values())
            position = {"since": last, "epoch": self._epoch}
        chat = Chat(self._server, self._token, worker=self.worker, room=self._room, **position)
        try:
            async with chat:
                history = await chat.joined()
                assert history.get("recovered", True)
                self._epoch = history["epoch"]
                kept = [message for message in history["messages"] if message["id"] in self.ids]
                await self._send(chat, {message["id"] for message in kept})
                self._take(kept)
        except ConnectionClosed:
            return False
        return True

    async def _send(self, chat: Chat, kept: set[str]) -> None:
        """Send all that was not acknowledged, what the history told too: that must not be published a second time."""
        waiting: set[str] = set()
        for id_ in [id_ for id_ in self.ids if id_ not in self.acknowledged]:
            await chat.say(f"content of {id_}", id=id_)
            waiting |= {id_} - kept
            while len(waiting) >= IN_FLIGHT:
                waiting.discard(await self._acknowledgement(chat))
        while waiting:
            waiting.discard(await self._acknowledgement(chat))

    async def _acknowledgement(self, chat: Chat) -> str:
        message = await chat.receive(within=30)
        assert message["type"] != "error", message
        if message["type"] != "chat_message" or message["id"] not in self.ids:
            return ""
        assert message["id"] not in self.acknowledged, "no message comes twice"
        self._take([message])
        return str(message["id"])

    def _take(self, messages: list[Message]) -> None:
        self.acknowledged |= {message["id"]: message for message in messages}


async def everything(server: Server, token: str, room: str, epoch: str) -> list[Message]:
    """Return all that the server has kept of a room."""
    async with Chat(server, token, room=room, since=0, epoch=epoch) as chat:
        history = await chat.joined()
        assert history["recovered"] is True
        messages: list[Message] = history["messages"]
        return messages


def assert_kept(kept: list[Message], sender: Sender) -> None:
    """Assert that what a sender saw acknowledged is kept once, in order and as it was; and all its ids once."""
    mine = [message for message in kept if message["id"] in sender.ids]
    ids = [message["id"] for message in mine]
    assert len(ids) == len(set(ids)), "nothing is kept twice"
    assert set(ids) == set(sender.ids), "everything was published in the end"
    assert [message["content"] for message in mine] == [f"content of {id_}" for id_ in ids]
    by_id = {message["id"]: message for message in mine}
    for id_, message in sender.acknowledged.items():
        assert by_id[id_] == message, "an acknowledged message is kept as it was"
    offsets = [message["offset"] for message in kept]
    assert offsets == sorted(set(offsets))


@pytest.mark.parametrize(
    "killed_after", [pytest.param(1, marks=pytest.mark.slow), 60, pytest.param(150, marks=pytest.mark.slow)]
)
def test_kill_9_in_the_middle_of_200_messages_and_a_restart(
    start_server: StartServer, room: str, killed_after: int
) -> None:
    server = start_server(broker="sqlite:///tidewire.db", limits=FAST)
    _, token = server.sign_up()
    _, watcher_token = server.sign_up()

    async def scenario() -> None:
        sender = Sender(server, token, room)
        async with Chat(server, watcher_token, room=room) as watcher:
            epoch = (await watcher.joined())["epoch"]
            sending = asyncio.create_task(sender.send_all())
            for _ in range(killed_after):
                await watcher.expect("chat_message")
            server.kill()
            await watcher.closed()
        assert await sending is False, "the server was killed before all was acknowledged"
        before = list(sender.acknowledged)
        assert before == sender.ids[: len(before)]
        await asyncio.to_thread(server.start)
        position: dict[str, Any] = {"since": watcher.position, "epoch": watcher.epoch}
        async with Chat(server, watcher_token, room=room, **position) as returned:
            missed = await returned.joined()
            assert missed["recovered"] is True
            assert await sender.send_all() is True
            kept = await everything(server, token, room, epoch)
            assert_kept(kept, sender)
            assert [message["id"] for message in kept] == sender.ids
            await returned.settle()
            seen = watcher.all("chat_message") + missed["messages"] + returned.all("chat_message")
            assert seen == kept, "who watched has seen each once, in order"

    asyncio.run(scenario())


def test_resending_what_was_kept_but_not_acknowledged_publishes_nothing(start_server: StartServer, room: str) -> None:
    """The same ids after a restart, within five minutes, are known."""
    server = start_server(broker="sqlite:///tidewire.db", limits=FAST)
    _, token = server.sign_up()

    async def scenario() -> None:
        first = Sender(server, token, room)
        assert await first.send_all()
        server.kill()
        await asyncio.to_thread(server.start)
        forgetful = Sender(server, token, room)
        async with Chat(server, token, room=room) as chat:
            epoch = (await chat.joined())["epoch"]
            for id_ in forgetful.ids:
                await chat.say("another content", id=id_)
            assert [message["type"] for message in await chat.settle()] == []
        kept = await everything(server, token, room, epoch)
        assert_kept(kept, first)

    asyncio.run(scenario())


def test_a_worker_is_killed_in_the_middle_of_200_messages(start_server: StartServer, room: str) -> None:
    server = start_server(broker="sqlite:///tidewire.db", workers=2, limits=FAST)
    doomed, safe = server.worker_pids()
    _, token = server.sign_up()
    _, other_token = server.sign_up()

    async def scenario() -> None:
        struck = Sender(server, token, room, prefix="struck", worker=doomed)
        spared = Sender(server, other_token, room, prefix="spared", worker=safe)
        async with Chat(server, other_token, room=room, worker=safe) as watcher:
            epoch = (await watcher.joined())["epoch"]
            sending = [asyncio.create_task(sender.send_all()) for sender in (struck, spared)]
            for _ in range(100):
                await watcher.expect("chat_message")
            async with asyncio.timeout(20):  # the other may have said all of it before this one is in the room
                while not struck.acknowledged:
                    await asyncio.sleep(0.005)
            os.kill(doomed, signal.SIGKILL)
            assert await sending[1] is True
            if not await sending[0]:
                struck.worker = safe
                assert await struck.send_all() is True
            kept = await everything(server, token, room, epoch)
            for sender in (struck, spared):
                assert_kept(kept, sender)
            while len(watcher.all("chat_message")) < len(kept):
                await watcher.expect("chat_message")
            assert watcher.all("chat_message") == kept

    asyncio.run(scenario())
