"""The Python client against the real server: through cuts, crashes, and a slow application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from websockets.asyncio.server import ServerConnection, serve

from contract.serving import Server
from tidewire import ConnectionClosed, NotAvailable, Publisher, PublishUnconfirmed
from tidewire.client import ChatClient, ChatMessage, History, Inbox, Message, Online, PrivateMessage, System, backoff
from tidewire.client import chat_client as client_module

pytestmark = pytest.mark.xdist_group("client")

T = TypeVar("T")


def run(work: Awaitable[T], seconds: float = 40.0) -> T:
    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await work

    return asyncio.run(limited())


async def next_of(client: ChatClient, type_: type[T]) -> T:
    """Return the next message of a type."""
    async for message in client:
        if isinstance(message, type_):
            return message
    raise AssertionError(f"the client ended before a {type_.__name__} came")


async def until_said(client: ChatClient, content: str) -> list[Message]:
    """Return what comes up to a chat message with this content."""
    seen: list[Message] = []
    async for message in client:
        seen.append(message)
        if isinstance(message, ChatMessage) and message.content == content:
            break
    return seen


def said(messages: list[Message]) -> list[str]:
    return [message.content for message in messages if isinstance(message, ChatMessage)]


class Relay:
    """A cable between client and server: it can be cut, and it can lose what the server says."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_cut = False
        self.loses_answers = False
        self.connections = 0

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/ws/auth"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there}
        await asyncio.gather(self._pump(reader, there, False), self._pump(there_reader, writer, True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not (answers and self.loses_answers):
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()

    def cut(self) -> None:
        """Cut every connection without a word, and let none through until `mend`."""
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        self.is_cut = self.loses_answers = False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on SQLite, so that the tests can publish beside it."""
    folder = tmp_path_factory.mktemp("client")
    with Server(folder, broker=f"sqlite:///{folder}/store.db").running() as running:
        yield running


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_LONGEST_DELAY", 0.2)


def outside(server: Server, room: str, first: int, last: int) -> None:
    """Publish numbers in a room beside the server."""
    with Publisher(f"sqlite:///{server.folder}/store.db") as publisher:
        for number in range(first, last + 1):
            message = {"type": "chat_message", "sender": "script", "content": str(number), "room": room}
            publisher.publish(f"room:{room}", message)


def test_two_clients_talk(server: Server) -> None:
    async def scene() -> None:
        ann, bob = (server.sign_up()[1] for _ in range(2))
        url = server.url("/ws/auth")
        async with ChatClient(url, ann, room="talk") as first, ChatClient(url, bob, room="talk") as second:
            assert await next_of(second, History) == History((), None)
            mine = await first.send("hello")
            theirs = await next_of(second, ChatMessage)
            assert (theirs.content, theirs.offset, theirs.sender) == ("hello", mine.offset, mine.sender)

    run(scene())


def test_a_newcomer_is_shown_what_was_said_and_who_is_there(server: Server) -> None:
    async def scene() -> None:
        name, token = server.sign_up()
        outside(server, "old", 1, 3)
        async with ChatClient(server.url("/ws/auth"), token, room="old") as client:
            history = await next_of(client, History)
            assert [message.content for message in history.messages] == ["1", "2", "3"]
            assert (await next_of(client, Inbox)).messages == ()
            assert (await next_of(client, Online)).users == (name,)

    run(scene())


def test_what_was_missed_follows_in_order_and_once(server: Server) -> None:
    async def scene() -> None:
        _, token = server.sign_up()
        async with Relay(server.port) as relay, ChatClient(relay.url, token, room="cut") as client:
            await client.send("before")
            await until_said(client, "before")
            relay.cut()
            await asyncio.to_thread(outside, server, "cut", 1, 50)
            relay.mend()
            await client.send("after")
            seen = await until_said(client, "after")
            assert said(seen) == [*map(str, range(1, 51)), "after"]
            assert not any(isinstance(message, History) for message in seen)

    run(scene())


def test_private_messages_that_were_missed_follow_too(server: Server) -> None:
    async def scene() -> None:
        name, token = server.sign_up()
        _, other = server.sign_up()
        url = server.url("/ws/auth")
        device, sender = ChatClient(url, token), ChatClient(url, other)
        async with Relay(server.port) as relay, device, sender, ChatClient(relay.url, token) as client:
            await next_of(device, Inbox)
            await next_of(client, Inbox)
            relay.cut()
            await sender.send_private(name, "psst")
            relay.mend()
            await sender.send_private(name, "again")
            assert [(await next_of(client, PrivateMessage)).content for _ in range(2)] == ["psst", "again"]

    run(scene())


def test_a_message_whose_answer_was_lost_is_published_once(server: Server) -> None:
    async def scene() -> None:
        _, token = server.sign_up()
        url = server.url("/ws/auth")
        async with Relay(server.port) as relay, ChatClient(url, token, room="once") as witness:
            await next_of(witness, History)
            async with ChatClient(relay.url, token, room="once") as client:
                await next_of(client, History)
                relay.loses_answers = True
                sending = asyncio.create_task(client.send("only once"))
                await until_said(witness, "only once")
                relay.cut()
                relay.mend()
                answer = await sending
                await client.send("end")
                assert said(await until_said(witness, "end")) == ["end"]
                assert answer.offset == 1

    run(scene())


def test_a_killed_server_costs_nothing(tmp_path: Path) -> None:
    async def scene(server: Server) -> None:
        _, token = server.sign_up()
        async with ChatClient(server.url("/ws/auth"), token) as client:
            await client.send("before")
            server.kill()
            sending = [asyncio.create_task(client.send(f"during {n}")) for n in range(5)]
            await asyncio.to_thread(server.start)
            offsets = [(await answer).offset for answer in sending]
            await client.send("after")
            seen = said(await until_said(client, "after"))
            assert sorted(offsets) == [2, 3, 4, 5, 6]
            assert seen[0] == "before"
            assert sorted(seen[1:6]) == [f"during {n}" for n in range(5)]
            assert len(seen) == 7

    with Server(tmp_path, broker=f"sqlite:///{tmp_path}/store.db").running() as server:
        run(scene(server))


def test_a_history_that_is_gone_is_told(tmp_path: Path) -> None:
    async def scene(server: Server) -> None:
        _, token = server.sign_up()
        async with ChatClient(server.url("/ws/auth"), token) as client:
            await client.send("lost")
            await until_said(client, "lost")
            server.kill()
            await asyncio.to_thread(server.start)
            assert await next_of(client, History) == History((), recovered=False)
            await client.send("new")
            assert said(await until_said(client, "new")) == ["new"]

    with Server(tmp_path, broker="memory://").running() as server:
        run(scene(server))


def test_a_slow_application_gets_everything_later(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_WAITING", 50)

    async def scene() -> None:
        _, token = server.sign_up()
        async with Relay(server.port) as relay, ChatClient(relay.url, token, room="slow") as client:
            await next_of(client, Online)
            await asyncio.to_thread(outside, server, "slow", 1, 200)
            await client.send("last")
            assert len(client._waiting) == 50
            assert said(await until_said(client, "last")) == [*map(str, range(1, 201)), "last"]
            assert relay.connections > 1

    run(scene())


def test_more_than_the_rate_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_LONGEST_DELAY", 2.0)

    async def scene(server: Server) -> None:
        _, token = server.sign_up()
        async with ChatClient(server.url("/ws/auth"), token) as client:
            answers = await asyncio.gather(*[client.send(str(n)) for n in range(30)])
            assert sorted(answer.offset for answer in answers) == list(range(1, 31))

    limits = {"rate": 20, "burst": 20}
    with Server(tmp_path, broker=f"sqlite:///{tmp_path}/store.db", limits=limits).running() as server:
        run(scene(server))


def test_a_private_message_to_nobody_is_not_available(server: Server) -> None:
    async def scene() -> None:
        _, token = server.sign_up()
        async with ChatClient(server.url("/ws/auth"), token) as client:
            with pytest.raises(NotAvailable, match="nobody-here"):
                await client.send_private("nobody-here", "hello?")

    run(scene())


def test_a_wrong_token_ends_the_client_and_is_not_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with ChatClient(server.url("/ws/auth"), "wrong-token") as client:
            with pytest.raises(ConnectionClosed, match="403"):
                await client.send("hello")
            with pytest.raises(ConnectionClosed, match="403"):
                await next_of(client, History)

    run(scene())
    assert "wrong-token" not in caplog.text


def test_a_message_that_is_too_big_ends_the_client(server: Server) -> None:
    async def scene() -> None:
        _, token = server.sign_up()
        async with ChatClient(server.url("/ws/auth"), token, room="big") as client:
            with pytest.raises(ConnectionClosed) as caught:
                await client.send("x" * 70_000)
            assert caught.value.disconnect.code == 1009

    run(scene())


def test_nothing_known_in_time_is_unconfirmed() -> None:
    async def scene() -> None:
        async with ChatClient("ws://127.0.0.1:9/ws/auth", "token") as client:
            with pytest.raises(PublishUnconfirmed, match="within"):
                await client.send("hello", seconds=0.3)

    run(scene())


def test_closing_ends_the_iteration_and_what_is_being_sent(server: Server) -> None:
    async def scene() -> None:
        _, token = server.sign_up()
        client = ChatClient(server.url("/ws/auth"), token, room="end")
        async with client:
            await next_of(client, History)
        rest = [message async for message in client]
        assert all(isinstance(message, Inbox | Online | System) for message in rest)
        with pytest.raises(ConnectionClosed):
            await client.send("too late")

    run(scene())


@asynccontextmanager
async def stub(handler: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    """Run a server that says what no healthy one does."""
    async with serve(handler, "127.0.0.1", 0) as running:
        yield f"ws://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}/ws/auth"


@pytest.mark.parametrize(("code", "comes_back"), [(4503, False), (1008, False), (4008, True), (1012, True)])
def test_a_code_says_whether_to_come_back(code: int, comes_back: bool) -> None:
    async def scene() -> None:
        connections = 0

        async def handler(connection: ServerConnection) -> None:
            nonlocal connections
            connections += 1
            if connections == 1:
                await connection.close(code, "as the test wants")
            else:
                await connection.send('{"type":"from_a_later_version"}')
                await connection.send('{"type":"history","messages":[{"something":"else"}],"epoch":"e"}')

        async with stub(handler) as url, ChatClient(url, "token") as client:
            if comes_back:
                assert await next_of(client, History) == History((), None)
            else:
                with pytest.raises(ConnectionClosed, match=str(code)):
                    await next_of(client, History)
                assert connections == 1

    run(scene())
