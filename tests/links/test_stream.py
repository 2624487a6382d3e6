"""The link over an HTTP response: with a server that takes what it is told to take, and with real ones."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.links.test_same_suite import Server as SuiteServer

from helpers.counting import reached
from tidewire.errors import Disconnect, RateLimited
from tidewire.limits import Limits
from tidewire.links.stream import BINARY, EVENTS, LINES, Framing, StreamLink
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import GONE, SHUTDOWN, STALLED
from tidewire.testing import wait_until


def run(main: Coroutine[Any, Any, None]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(15):
            await main
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    asyncio.run(guarded())


class Server:
    """The two callables of an ASGI server, and a listener that remembers."""

    def __init__(self, framing: Framing = LINES, **limits: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.error: Exception | None = None
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.told: list[Any] = []
        self.aborted = 0
        self.on_shutdown: Callable[[], None] | None = None
        self.link = StreamLink(
            self.inbox.get,
            self.send,
            Limits(**limits),
            framing,
            last_message=self.last_message,
            headers={"X-Own": "yes"},
            server=self,
        )
        self.link.listen(self)

    def abort(self) -> None:
        self.aborted += 1

    def last_message(self, code: int, reason: str) -> WireMessage:
        return WireMessage(f"bye {code} {reason}".encode())

    async def send(self, event: dict[str, Any]) -> None:
        await self.takes.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(event)

    def message_received(self, message: str | bytes) -> None:
        self.told.append(message)

    def refuse(self, kind: str, why: str) -> None:
        self.told.append((kind, why))

    def shut_down(self) -> None:
        self.told.append("shut down")

    def drained(self) -> None:
        self.told.append("drained")

    def closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        self.told.append((disconnect, clean))

    def write(self, *messages: bytes) -> None:
        self.link.write(Batch([WireMessage(message) for message in messages]))

    @property
    def body(self) -> bytes:
        return b"".join(bytes(event["body"]) for event in self.sent[1:])


def test_what_is_written_in_one_turn_goes_out_at_once() -> None:
    async def main() -> None:
        server = Server()
        holding = asyncio.create_task(server.link.keep_open())
        await asyncio.sleep(0)
        assert server.sent == []  # nothing was written: who asked has no answer yet
        server.write(b"1", b"2")
        server.write(b"3")
        assert server.link.backlog() == (6, 3)
        await wait_until(lambda: len(server.sent) == 3)
        assert server.sent[0]["status"] == 200
        headers = dict(server.sent[0]["headers"])
        assert headers[b"content-type"] == b"application/x-ndjson"
        assert (headers[b"x-own"], headers[b"x-accel-buffering"]) == (b"yes", b"no")
        assert server.sent[2]["body"] == b"1\n2\n3\n"
        assert server.link.backlog() == (0, 0)
        server.link.close(3503, "force disconnect")
        server.write(b"too late")
        await holding
        assert server.body == b"1\n2\n3\nbye 3503 force disconnect\n"
        assert server.sent[-1]["more_body"] is False
        assert server.told == [(Disconnect(3503, "force disconnect"), True)]

    run(main())


@pytest.mark.parametrize(
    ("framing", "body"),
    [(LINES, b"{}\n1\n2\n"), (EVENTS, b"\r\ndata: {}\n\ndata: 1\n\ndata: 2\n\n"), (BINARY, b"{}1\n2")],
    ids=["lines", "events", "binary"],
)
def test_messages_stand_as_their_framing_says(framing: Framing, body: bytes) -> None:
    async def main() -> None:
        server = Server(framing)
        server.link.uncork()
        holding = asyncio.create_task(server.link.keep_open())
        server.write(b"{}", b"1\n2")
        await wait_until(lambda: server.body == body)
        server.inbox.put_nowait({"type": "http.disconnect"})
        await holding
        assert server.told == [(GONE, False)]

    run(main())


def test_a_client_that_goes_is_noticed_at_once_and_nothing_more_is_kept_for_it() -> None:
    async def main() -> None:
        server = Server()
        server.takes.clear()
        holding = asyncio.create_task(server.link.keep_open())
        server.write(b"x" * 100_000)
        assert server.link.paused
        server.inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        server.inbox.put_nowait({"type": "http.disconnect"})
        await wait_until(lambda: server.told == [(GONE, False)])
        server.write(b"y")
        assert server.link.backlog() == (0, 0)
        await server.link.wait_drained()
        assert not await server.link.receive("too late")
        server.takes.set()
        await holding

    run(main())


def test_a_slow_client_is_paused_and_drained_and_gets_all_in_pieces() -> None:
    async def main() -> None:
        server = Server()
        server.takes.clear()
        holding = asyncio.create_task(server.link.keep_open())
        messages = [bytes([65 + number]) * 50_000 for number in range(4)]
        server.write(*messages)
        server.write(b"last")
        assert (server.link.paused, server.link.backlog()) == (True, (200_009, 5))
        server.takes.set()
        await server.link.wait_drained()
        await wait_until(lambda: server.link.backlog() == (0, 0))
        assert server.body == b"".join(message + b"\n" for message in [*messages, b"last"])
        assert max(len(event.get("body", b"")) for event in server.sent) <= 65_536
        assert server.told == ["drained"]
        server.link.abort()
        await holding
        assert (server.told[1:], server.aborted) == ([(GONE, False)], 1)

    run(main())


def test_a_client_that_takes_nothing_is_cut() -> None:
    async def main() -> None:
        before = reached()["stalled_seconds"]
        server = Server(stalled_seconds=0.05)
        server.takes.clear()
        server.write(b"x")
        await server.link.keep_open()
        assert (server.told, server.aborted) == ([(STALLED, False)], 1)
        assert reached()["stalled_seconds"] == before + 1

    run(main())


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("a bug")])
def test_a_server_that_fails_ends_the_link(error: Exception) -> None:
    async def main() -> None:
        server = Server()
        server.error = error
        server.write(b"x")
        await server.link.keep_open()
        assert server.told == [(GONE, False)]

    run(main())


def test_what_the_client_sends_waits_in_its_order_while_reading_is_paused() -> None:
    async def main() -> None:
        server = Server(burst=3)
        assert await server.link.receive("1")
        server.link.pause_reading()
        waiting = [asyncio.create_task(server.link.receive(text)) for text in "234"]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="3 wait already"):
            await server.link.receive("5")
        assert server.told == ["1"]
        server.link.resume_reading()
        assert await asyncio.gather(*waiting) == [True, True, True]
        assert server.told == ["1", "2", "3", "4"]
        server.link.abort()

    run(main())


def test_what_waits_while_reading_is_paused_is_bounded_in_bytes() -> None:
    async def main() -> None:
        server = Server(inbox_bytes=1_000)
        server.link.pause_reading()
        before = reached()["inbox_bytes"]
        waiting = [asyncio.create_task(server.link.receive(text * 600)) for text in "ab"]
        waiting.append(asyncio.create_task(server.link.receive("c" * 400)))
        await asyncio.sleep(0)
        assert reached()["inbox_bytes"] == before + 1
        with pytest.raises(RateLimited, match="1000 bytes wait already"):
            await server.link.receive("d")
        server.link.resume_reading()
        first, refused, last = await asyncio.gather(*waiting, return_exceptions=True)
        assert (first, type(refused), last) == (True, RateLimited, True)
        assert await server.link.receive("e" * 5_000), "one alone may be as large as a message may be"
        assert server.told == ["a" * 600, "c" * 400, "e" * 5_000]
        server.link.abort()

    run(main())


def test_a_close_before_anything_was_said_is_told() -> None:
    async def main() -> None:
        server = Server()
        server.link.close(SHUTDOWN.code, "bye")
        await server.link.keep_open()
        assert server.body == b"bye 1012 bye\n"
        assert server.told == [(Disconnect(SHUTDOWN.code, "bye"), True)]

    run(main())


def test_a_cancelled_application_ends_the_link() -> None:
    async def main() -> None:
        server = Server()
        holding = asyncio.create_task(server.link.keep_open())
        await asyncio.sleep(0)
        holding.cancel()
        await asyncio.wait([holding])
        assert holding.cancelled()
        assert server.told == [(GONE, False)]

    run(main())


# Over real servers.


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.xdist_group(f"stream-{kind}"))
        for kind in ("tidewire", "websockets-sansio", "hypercorn", "granian")
    ],
)
def server(request: pytest.FixtureRequest) -> Iterator[SuiteServer]:
    server = SuiteServer(request.param)
    yield server
    server.stop()


@contextmanager
def stream(server: SuiteServer, path: str, *, receive_buffer: int = 0) -> Iterator[socket.socket]:
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.settimeout(15)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(f"GET {path} HTTP/1.1\r\nHost: {server.url}\r\n\r\n".encode())
    try:
        yield raw
    finally:
        raw.close()


def read_until(raw: socket.socket, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        data = raw.recv(65_536)
        assert data, f"the server ended the stream after {read[-300:]!r}"
        read += data
    return read


def wait_for(condition: Any, seconds: float = 10.0, why: str = "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, why
        time.sleep(0.02)


def test_a_stream_follows_a_channel(server: SuiteServer) -> None:
    with stream(server, "/stream/s1?user=ann") as ann:
        head = read_until(ann, b"hello ann\n")
        assert b" 200 " in head
        assert b"no-store" in head
        server.post("/publish/s1?size=10&count=30")
        read_until(ann, b"29 xxxxxxx\n")
        assert server.known("s1")["users"] == ["ann"]
    wait_for(lambda: server.known("s1")["users"] == [], why="who has gone is no member")


def test_the_application_ends_a_stream(server: SuiteServer) -> None:
    with stream(server, "/stream/s2?user=ann") as ann:
        read_until(ann, b"hello ann\n")
        server.post("/disconnect/ann")
        assert b"bye 4503" in read_until(ann, b"0\r\n\r\n")
    wait_for(lambda: server.known()["connections"] == 0)


def test_a_stream_that_nobody_reads_is_cut_and_the_others_are_served(server: SuiteServer) -> None:
    with (
        stream(server, "/stream/s3?user=frozen", receive_buffer=4_096) as frozen,
        stream(server, "/stream/s3?user=reader") as reader,
    ):
        read_until(reader, b"hello reader\n")
        wait_for(lambda: sorted(server.known("s3")["users"]) == ["frozen", "reader"])
        for _ in range(40):
            server.post("/publish/s3?size=20000&count=20")
            read_until(reader, b"\n19 ")
        wait_for(lambda: server.known("s3")["users"] == ["reader"], 12.0, "the frozen one is cut")
        frozen.close()


def test_nothing_is_left_of_many_streams(server: SuiteServer) -> None:
    wait_for(lambda: server.known()["connections"] == 0)
    tasks = server.known()["tasks"]
    for _ in range(20):
        with stream(server, "/stream/s4?user=ann") as ann:
            read_until(ann, b"hello ann\n")
        wait_for(lambda: server.known()["connections"] == 0)
    wait_for(lambda: server.known()["tasks"] == tasks, 10.0)


def test_a_shutdown_ends_streams_with_a_word(server: SuiteServer) -> None:
    """The last test of each server: it ends it."""
    with stream(server, "/stream/s5?user=ann") as ann:
        read_until(ann, b"hello ann\n")
        began = time.monotonic()
        server.process.terminate()
        if server.kind == "granian":  # it closes sockets without a word
            return
        if server.kind == "tidewire":
            read_until(ann, b"bye 1012")
            server.process.wait(10)
            assert time.monotonic() - began < 5.0
