"""Sockets that are read together: the same bytes, pauses and ends as from their transports, on both loops."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from unittest.mock import Mock

import pytest
import uvloop
from fastapi import WebSocket
from tests.links.wire import PING, TEXT, frame
from websockets.asyncio.client import ClientConnection

from helpers.hubs import Application, serving
from tidewire import ChannelOptions, Hub, Limits
from tidewire.links import joint_reading
from tidewire.links.joint_reading import JoinedSocket, JointReading
from tidewire.links.reader import BY_APPLICATION, BY_WRITER, Reader
from tidewire.testing import wait_until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MOVES = {"moves": ChannelOptions(ephemeral=True), "talk": ChannelOptions(history_size=10_000)}

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    def run_in(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(main, 40))

    return run_in


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two messages that may wait are many."""
    monkeypatch.setattr(joint_reading, "_WORTH", 0.001)
    monkeypatch.setattr(joint_reading, "_TIMED", 2)


# One socket.


class Server(asyncio.Protocol):
    """Takes bytes from its transport, or from a joint reading."""

    def __init__(self) -> None:
        self.by_transport: list[bytes] = []
        self.received = b""
        self.ended = self.has_left = False
        self.lost: Exception | None = None
        self.is_lost = False
        self.joined: JoinedSocket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.by_transport.append(data)

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost, self.lost = True, exc
        if self.joined is not None:
            self.joined.leave()

    def receive(self, data: bytes) -> None:
        if data == b"raise":
            raise RuntimeError("broken")
        self.received += data

    def leave(self) -> None:
        self.has_left = True
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def join(self) -> JoinedSocket | None:
        joint = JointReading.of(asyncio.get_running_loop())
        joint.join(self.transport, self.receive, self.leave)  # the first is not many
        self.joined = joint.join(self.transport, self.receive, self.leave)
        return self.joined


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Server, socket.socket]]:
    """Yield the server's end of a TCP connection, and the client's socket."""
    loop = asyncio.get_running_loop()
    made: list[Server] = []

    def make() -> Server:
        made.append(Server())
        return made[-1]

    listener = await loop.create_server(make, "127.0.0.1", 0)
    with socket.create_connection(listener.sockets[0].getsockname()) as client:
        await wait_until(lambda: bool(made) and hasattr(made[0], "transport"), what="the connection is made")
        yield made[0], client
        made[0].transport.abort()
        await wait_until(lambda: made[0].is_lost, what="the connection is lost")
    listener.close()
    await wait_until(lambda: len(JointReading.of(loop)) == 0, what="no socket is left")


def test_few_messages_leave_reading_to_the_transport(run: Run) -> None:
    async def main() -> None:
        async with pair() as (server, client):
            assert server.join() is None
            client.sendall(b"one")
            await wait_until(lambda: server.by_transport == [b"one"], what="the transport reads")

    run(main())


@pytest.mark.usefixtures("often")
def test_bytes_come_in_order_and_not_by_the_transport(run: Run) -> None:
    async def main() -> None:
        async with pair() as (server, client):
            assert server.join() is not None
            sent = b"".join(b"%d " % number for number in range(50_000))
            await asyncio.to_thread(client.sendall, sent)
            await wait_until(lambda: len(server.received) == len(sent), what="everything is read")
            assert server.received == sent
            assert not server.by_transport

    run(main())


@pytest.mark.usefixtures("often")
def test_where_no_descriptor_is_left_the_transport_reads_on(run: Run) -> None:
    """The client was never read again, and its publish failed."""

    async def main() -> None:
        async with pair() as (server, client):
            used, (_, most) = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            taken: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, most))
            try:
                with suppress(OSError):
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                assert server.join() is None
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
                for descriptor in taken:
                    os.close(descriptor)
            client.sendall(b"one")
            await wait_until(lambda: server.by_transport == [b"one"], what="the transport reads")
            assert server.join() is not None

    run(main())


@pytest.mark.usefixtures("often")
def test_a_pause_lasts_until_reading_is_resumed(run: Run) -> None:
    async def main() -> None:
        async with pair() as (server, client):
            joined = server.join()
            assert joined is not None
            joined.pause_reading()
            joined.pause_reading()
            client.sendall(b"one")
            async with pair() as (other, beside):  # whose messages show that looks go on
                assert other.join() is not None
                for number in range(5):
                    beside.sendall(b"x")
                    await wait_until(lambda number=number: len(other.received) > number)  # type: ignore[misc]
                assert not server.received
                joined.resume_reading()
                joined.resume_reading()
                await wait_until(lambda: server.received == b"one", what="reading goes on")

    run(main())


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("is_reset", [False, True])
def test_the_transport_sees_the_end_of_the_client(run: Run, is_reset: bool) -> None:
    async def main() -> None:
        async with pair() as (server, client):
            assert server.join() is not None
            client.sendall(b"last")
            if is_reset:
                await wait_until(lambda: server.received == b"last")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                client.shutdown(socket.SHUT_WR)
            await wait_until(lambda: server.is_lost if is_reset else server.ended, what="the end is seen")
            assert server.has_left
            assert server.received == b"last"

    run(main())


@pytest.mark.usefixtures("often")
def test_one_that_brings_nothing_of_that_kind_is_left_to_its_transport(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_reading, "_SWEEP", 3)

    async def main() -> None:
        async with pair() as (server, client):
            assert server.join() is not None
            await wait_until(lambda: server.has_left, what="it is idle")
            client.sendall(b"one")
            await wait_until(lambda: server.by_transport == [b"one"], what="the transport reads")
            assert len(JointReading.of(asyncio.get_running_loop())) == 0

    run(main())


@pytest.mark.usefixtures("often")
def test_all_are_left_to_their_transports_when_few_messages_come(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_reading, "_SWEEP", 3)

    async def main() -> None:
        async with pair() as (server, _):
            joined = server.join()
            assert joined is not None
            monkeypatch.setattr(joint_reading, "_WORTH", 1e9)
            while not server.has_left:
                joined.use()
                await asyncio.sleep(0)

    run(main())


@pytest.mark.usefixtures("often")
def test_a_receiver_that_raises_ends_its_own_connection_alone(run: Run) -> None:
    async def main() -> None:
        found: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        async with pair() as (server, client), pair() as (other, beside):
            assert server.join() is not None
            assert other.join() is not None
            client.sendall(b"raise")
            await wait_until(lambda: server.is_lost, what="the connection has ended")
            beside.sendall(b"fine")
            await wait_until(lambda: other.received == b"fine", what="the other one is read")
        assert [str(context["exception"]) for context in found] == ["broken"]

    run(main())


# The whole way.


async def endpoint_of(hub: Hub, websocket: WebSocket) -> None:
    """Publish moves so that nobody keeps them, and all else so that it is kept."""
    async with hub.connect(websocket) as connection:
        await connection.subscribe("moves")
        await connection.subscribe("talk")
        async for text in connection.iter_text():
            await connection.submit("moves" if text.startswith("m") else "talk", text)


@asynccontextmanager
async def room(**limits: Any) -> AsyncIterator[Application]:
    hub = Hub("memory://", channels=MOVES, limits=Limits(rate=1e6, burst=10**6, **limits))

    async def endpoint(websocket: WebSocket) -> None:
        await endpoint_of(hub, websocket)

    async with serving(hub, endpoint) as running:
        yield running


def joined() -> int:
    return len(JointReading.of(asyncio.get_running_loop()))


async def start(*senders: ClientConnection) -> None:
    """Send moves until the senders are read together."""
    for sender in senders:
        await sender.send("m start")
        await sender.send("m start")
    await wait_until(lambda: joined() == len(senders), what="all are read together")


async def numbers(client: ClientConnection, until: set[str]) -> dict[str, list[int]]:
    """Return the numbers that come, by the kind and the sender of the text before them, up to some texts."""
    found: dict[str, list[int]] = {}
    while until:
        text = str(await client.recv())
        until -= {text}
        name, _, number = text.rpartition(" ")
        if number.isdigit():
            found.setdefault(name, []).append(int(number))
    return found


@pytest.mark.usefixtures("often")
def test_moves_and_all_else_come_in_order_from_sockets_that_are_read_together(run: Run) -> None:
    async def main() -> None:
        async with (
            room() as running,
            running.open() as reader,
            running.open(max_queue=None) as ann,
            running.open(max_queue=None) as bob,
        ):
            await start(ann, bob)
            for number in range(300):
                for name, sender in (("ann", ann), ("bob", bob)):
                    await sender.send(f"{'m' if number % 3 else 't'} {name} {number}")
            await ann.send("t ann end")
            await bob.send("t bob end")
            found = await numbers(reader, {"t ann end", "t bob end", "m ann 299", "m bob 299"})
            for name in ("ann", "bob"):
                assert found[f"t {name}"] == [*range(0, 300, 3)]
                assert found[f"m {name}"] == sorted(set(found[f"m {name}"])), "newest wins, none twice"
            assert joined() == 2

    run(main())


@pytest.mark.usefixtures("often")
def test_a_message_that_comes_in_pieces_is_put_together(run: Run) -> None:
    async def main() -> None:
        async with room() as running, running.open() as reader, running.open() as ann:
            await start(ann)
            whole = frame(TEXT, b"t ann 1") + frame(PING, b"?") + frame(TEXT, b"t ann 2" + b" " * 60_000 + b"3")
            for at in range(0, 40):
                ann.transport.write(whole[at : at + 1])
                await asyncio.sleep(0)
            ann.transport.write(whole[40:])
            found = await numbers(reader, {"t ann 1", "t ann 2" + " " * 60_000 + "3"})
            assert found["t ann"] == [1]

    run(main())


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_client_that_leaves_is_let_go(run: Run, is_cut: bool) -> None:
    async def main() -> None:
        async with room() as running, running.open() as reader:
            async with running.open() as ann:
                await start(ann)
                assert running.hub.statistics().connections == 2
                if is_cut:
                    ann.transport.abort()
            await wait_until(lambda: running.hub.statistics().connections == 1, what="it is let go")
            assert joined() == 0
            if not is_cut:
                assert ann.close_code == 1000
            await reader.send("t on")
            assert "t on" in await _received(reader, "t on")

    run(main())


async def _received(client: ClientConnection, last: str) -> list[str]:
    found: list[str] = []
    while last not in found:
        found.append(str(await client.recv()))
    return found


@pytest.mark.usefixtures("often")
def test_each_pause_of_a_reader_holds_for_its_socket(run: Run) -> None:
    async def main() -> None:
        async with pair() as (server, client):
            given: list[object] = []
            reader = Reader(server.transport, asyncio.get_running_loop())
            reader.open(given.append, b"", 100, 5, [])
            reader.pause(BY_WRITER)

            def receive(data: bytes) -> None:
                reader.feed(data)

            for _ in range(2):
                reader.may_wait(receive)
            assert joined() == 1
            reader.pause(BY_APPLICATION)
            client.sendall(frame(TEXT, b"one"))
            async with pair() as (other, beside):
                assert other.join() is not None
                beside.sendall(b"x")
                await wait_until(lambda: other.received == b"x", what="looks go on")
                reader.resume(BY_APPLICATION)
                beside.sendall(b"y")
                await wait_until(lambda: other.received == b"xy", what="looks go on")
                assert not given
                reader.resume(BY_WRITER)
                await wait_until(lambda: given == ["one"], what="reading goes on")
            reader.close()
            assert joined() == 0
            assert not server.by_transport

    run(main())


@pytest.mark.usefixtures("often")
def test_where_pushes_wait_for_nothing_no_message_does(run: Run) -> None:
    async def main() -> None:
        async with room(ephemeral_seconds=0) as running, running.open() as ann:
            for number in range(10):
                await ann.send(f"m {number}")
            await _received(ann, "m 9")
            assert joined() == 0

    run(main())


@pytest.mark.usefixtures("often")
def test_a_socket_under_tls_is_left_to_its_transport() -> None:
    async def main() -> None:
        transport = Mock(spec=asyncio.Transport)
        transport.is_closing.return_value = False
        transport.get_extra_info.side_effect = {"ssl_object": object(), "socket": Mock()}.get
        for _ in range(4):
            assert JointReading.of(asyncio.get_running_loop()).join(transport, Mock(), Mock()) is None

    asyncio.run(main())
