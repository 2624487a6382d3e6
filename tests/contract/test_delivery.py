"""Nothing is lost and nothing comes twice: between history and live, after a cut, in a burst, to a slow reader."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .chatting import Chat, Message
from .conftest import FAST, StartServer
from .raw import RawSocket
from .serving import Server, standing_still

pytestmark = pytest.mark.xdist_group("contract-delivery")

LAST = "the last message"


class Following:
    """What one client of a room was given, however often it was cut off and came back."""

    def __init__(self, server: Server, token: str, room: str) -> None:
        self._server, self._token, self._room = server, token, room
        self._position: dict[str, Any] = {}
        self.given: list[Message] = []
        self.history: list[Message] | None = None
        self.visits = 0

    @property
    def is_over(self) -> bool:
        """The last message has come."""
        return bool(self.given) and self.given[-1]["content"] == LAST

    async def visit(self, messages: int | None = None) -> None:
        """Come, or come back, and read until the end or until so many more messages have come; then be cut off."""
        async with Chat(self._server, self._token, room=self._room, **self._position) as chat:
            history = await chat.expect("history")
            assert history.get("recovered", True), "what was missed is still kept"
            if self.history is None:
                self.history = history["messages"]
            self.given += history["messages"]
            wanted = len(self.given) + (messages or 10**9)
            while not self.is_over and len(self.given) < wanted:
                self.given.append(await chat.expect("chat_message", within=30))
            chat.socket.transport.abort()
            if self.given:
                self._position = {"since": self.given[-1]["offset"], "epoch": chat.epoch}
            self.visits += 1

    async def keep_visiting(self) -> None:
        """Come back again and again until the end."""
        while not self.is_over:
            await self.visit(messages=7)


@contextlib.asynccontextmanager
async def traffic(server: Server, token: str, room: str, *, writers: int, messages: int) -> AsyncIterator[None]:
    """Keep several writers writing while the block runs; LAST comes when both are done."""

    async def write(writer: int) -> None:
        async with Chat(server, token, room=room) as chat:
            await chat.joined()
            for number in range(messages):
                await chat.say(f"{writer}.{number}", id=f"{writer}.{number}")
                await chat.expect("chat_message", within=30, id=f"{writer}.{number}")

    async with asyncio.TaskGroup() as group:
        for writer in range(writers):
            group.create_task(write(writer))
        yield
    async with Chat(server, token, room=room) as chat:
        await chat.joined()
        await chat.say(LAST)
        await chat.expect("chat_message", content=LAST)


def test_history_and_live_join_without_a_hole_under_concurrent_traffic(every_server: Server, room: str) -> None:
    _, token = every_server.sign_up()
    _, reader_token = every_server.sign_up()

    async def scenario() -> None:
        watcher = Following(every_server, reader_token, room)
        joiners = [Following(every_server, reader_token, room) for _ in range(12)]
        returners = [Following(every_server, reader_token, room) for _ in range(3)]

        async def join_when(joiner: Following, count: int) -> None:
            async with asyncio.timeout(60):
                while len(watcher.given) < count:
                    await asyncio.sleep(0.005)
            await joiner.visit()

        async with asyncio.TaskGroup() as group:
            group.create_task(watcher.visit())
            for number, joiner in enumerate(joiners):
                group.create_task(join_when(joiner, 15 * number))
            for returner in returners:
                group.create_task(returner.keep_visiting())
            async with traffic(every_server, token, room, writers=4, messages=80):
                pass
        reference = watcher.given
        contents = [message["content"] for message in reference]
        assert sorted(contents[:-1]) == sorted(f"{writer}.{number}" for writer in range(4) for number in range(80))
        for writer in range(4):
            own = [content for content in contents if content.startswith(f"{writer}.")]
            assert own == [f"{writer}.{number}" for number in range(80)]
        assert_same_end(reference, [*joiners, *returners])
        assert all(returner.visits > 1 for returner in returners)

    asyncio.run(scenario())


def assert_same_end(reference: list[Message], followers: list[Following]) -> None:
    """Assert that each was given one unbroken end of the same sequence, beginning at most 100 before it came."""
    for follower in followers:
        start = reference.index(follower.given[0])
        assert follower.given == reference[start:]
        assert follower.history is not None
        assert len(follower.history) == 100 or start == 0


def test_a_burst_reaches_all_in_one_order(every_server: Server, room: str) -> None:
    writers, each = 16, 8
    users = [every_server.sign_up() for _ in range(4)]

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            chats = [Chat(every_server, users[number % 4][1], room=room) for number in range(writers)]
            for chat in chats:
                await stack.enter_async_context(chat)
                await chat.joined()
            with standing_still(every_server.worker_pids()):
                for number in range(each):
                    for writer, chat in enumerate(chats):
                        await chat.say(f"{writer}.{number} ".ljust(5_000, "x"))
            orders = []
            for chat in chats:
                got = [await chat.expect("chat_message", within=60) for _ in range(writers * each)]
                orders.append([message["offset"] for message in got])
            assert len(set(orders[0])) == writers * each
            assert all(order == orders[0] for order in orders)

    asyncio.run(scenario())


def test_a_burst_in_one_turn_disconnects_nobody_who_reads(start_server: StartServer) -> None:
    """The outbox is judged by what earlier turns left: what one turn brings may be many times as much."""
    writers, size = 30, 60_000
    server = start_server(limits={"outbox_bytes": 65_536, "connections_per_user": 100, **FAST})
    _, token = server.sign_up()
    path = f"/ws/auth?token={token}"
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(RawSocket(server, path, receive_buffer=8_192)) for _ in range(writers)]
        for member in members:
            while json.loads(member.next_message())["type"] != "online":
                pass
        with standing_still(server.worker_pids()):
            for number, member in enumerate(members):
                member.send_text(f"{number} ".ljust(size, "x"))
        for member in members:
            got: set[str] = set()
            while len(got) < writers:
                message = json.loads(member.next_message(within=30))
                if message["type"] == "chat_message":
                    got.add(message["content"].split()[0])
            assert got == set(map(str, range(writers)))


def test_a_history_beyond_the_outbox_arrives_whole_also_to_a_slow_reader(every_server: Server, room: str) -> None:
    size, count, live = 40_000, 100, 20
    _, token = every_server.sign_up()

    async def seed() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            for number in range(count):
                await chat.say(f"{number} ".ljust(size, "x"))
            for _ in range(count):
                await chat.expect("chat_message", within=60)

    async def go_on() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            for number in range(live):
                await chat.say(f"live {number} ".ljust(2_000, "y"))
                await chat.expect("chat_message", within=60)

    asyncio.run(seed())
    path = f"/ws/auth?token={token}&room={room}"
    with RawSocket(every_server, path, receive_buffer=8_192) as slow:
        # While it has read nothing yet, the room goes on.
        asyncio.run(go_on())
        slow.pace = 0.002
        history = json.loads(slow.next_message(within=30))
        assert history["type"] == "history"
        given = [message["content"].strip("xy ") for message in history["messages"]]
        while given[-1] != f"live {live - 1}":
            message = json.loads(slow.next_message(within=30))
            if message["type"] == "chat_message":
                given.append(message["content"].strip("xy "))
    everything = [*map(str, range(count)), *[f"live {number}" for number in range(live)]]
    assert len(given) >= count  # in the reply, and in pages behind it
    assert given == everything[-len(given) :]


def test_a_reader_that_stops_for_a_while_misses_nothing(every_server: Server, room: str) -> None:
    """Less than the outbox waits for it, so it is not disconnected and reads on where it stopped."""
    _, token = every_server.sign_up()

    async def talk() -> None:
        async with Chat(every_server, token, room=room) as chat:
            await chat.joined()
            for number in range(60):
                await chat.say(f"{number} ".ljust(10_000, "x"))
            for _ in range(60):
                await chat.expect("chat_message", within=60)

    with RawSocket(every_server, f"/ws/auth?token={token}&room={room}", receive_buffer=8_192) as idle:
        assert json.loads(idle.next_message())["type"] == "history"
        asyncio.run(talk())
        got: list[str] = []
        while len(got) < 60:
            message = json.loads(idle.next_message(within=20))
            if message["type"] == "chat_message":
                got.append(message["content"].split()[0])
    assert got == [str(number) for number in range(60)]
