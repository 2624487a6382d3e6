"""Twelve attacks by one client without a login, each against a server process of its own.

Each ends as it should, costs at most 5 MiB, is released in time, and does not disturb a bystander. Waiting is shortened
by the configuration, except in the slow test, which runs with every default.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from tests.links.wire import (
    BINARY,
    CONT,
    PING,
    PONG,
    TEXT,
    Client,
    Server,
    connect,
    frame,
    request,
    serving,
    wait_for,
)

MIB = 1_048_576
#: Milliseconds of the bystander's slowest round trip while an attack goes on. A GC pause or this machine's other
#: processes take some of it; a loop that is blocked by an attack takes seconds.
PATIENCE = 1_000.0


class Bystander:
    """Somebody else's connection, with a round trip every 20 ms."""

    def __init__(self, server: Server) -> None:
        self._client = Client(server, "/link?name=bystander")
        self._stop = threading.Event()
        self.slowest = 0.0
        self.trips = 0
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.02):
                start = time.monotonic()
                self._client.send(frame(TEXT, b"there?"))
                assert self._client.text() == "there?"
                self.slowest = max(self.slowest, (time.monotonic() - start) * 1_000)
                self.trips += 1
        except BaseException as error:
            self.failed = error

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def links(server: Server) -> list[str]:
    found: list[str] = server.stats()["links"]
    return [name for name in found if name != "bystander"]


@contextlib.contextmanager
def attacked(server: Server, *, growth: float = 5.0) -> Iterator[None]:
    """Judge the server by its memory, what it has released, and the bystander."""
    for _ in range(3):
        server.stats()
    before, highest, done = server.rss(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.1):
            with contextlib.suppress(OSError, ValueError):
                highest = max(highest, server.rss())

    watcher = threading.Thread(target=watch, daemon=True)
    with Bystander(server) as bystander:
        wait_for(lambda: bystander.trips > 3)
        watcher.start()
        try:
            yield
            wait_for(lambda: not links(server), 15, "the attacker's connection is released")
            done_at = bystander.trips
            wait_for(lambda: bystander.trips > done_at + 3, why="the bystander goes on")
        finally:
            done.set()
            watcher.join()
    assert bystander.failed is None, bystander.failed
    assert bystander.slowest < PATIENCE
    assert max(highest, server.rss()) - before <= growth


def push(client: Client, data: bytes, total: int) -> int:
    """Send the same bytes again and again until so much is sent or the server has had enough; returns what was sent."""
    sent = 0
    client.socket.settimeout(3)
    with contextlib.suppress(OSError):
        while sent < total:
            sent += client.socket.send(data)
    return sent


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(limits={"stalled_seconds": 2.0, "header_seconds": 1.0, "ping_seconds": 5.0}, deflate=True) as running:
        yield running


def many_fragments(server: Server, wire: int) -> None:
    with Client(server, "/link?name=attacker") as client:
        client.send(frame(TEXT, b"ab", fin=False))
        assert push(client, frame(CONT, b"ab", fin=False) * 8_192, wire) < 24 * MIB
        assert client.close_code() in (1009, None)
    assert server.stats()["limits"]["fragments"] >= 1


def test_1_tiny_fragments(server: Server) -> None:
    with attacked(server):
        many_fragments(server, 4 * MIB)


def test_2_tiny_fragments_64_mib(server: Server) -> None:
    with attacked(server):
        many_fragments(server, 64 * MIB)


def test_tiny_fragments_are_answered_with_1009(server: Server) -> None:
    with Client(server, "/link?name=attacker") as client:
        client.send(frame(TEXT, b"a", fin=False), *[frame(CONT, fin=False)] * 1_100)
        assert client.close_code() == 1009
    with Client(server, "/link?name=decent") as client:
        client.send(frame(TEXT, b"a", fin=False), *[frame(CONT, b"a", fin=False)] * 1_022, frame(CONT))
        assert client.text() == "a" * 1_023


def test_3_endless_empty_continuations(server: Server) -> None:
    with attacked(server), Client(server, "/link?name=attacker") as client:
        client.send(frame(BINARY, fin=False))
        assert push(client, frame(CONT, fin=False) * 8_192, 64 * MIB) < 24 * MIB


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_4_a_flood_of_control_frames_never_reading(server: Server, opcode: int) -> None:
    before = server.stats()["limits"].get("rate", 0)
    with attacked(server), Client(server, "/link?name=attacker", receive_buffer=4_096) as client:
        assert push(client, frame(opcode, b"x" * 125) * 512, 156 * MIB) < 24 * MIB
    assert server.stats()["limits"]["rate"] == before + 1


def test_a_flood_of_pings_is_answered_with_1008(server: Server) -> None:
    with Client(server, "/link?name=attacker") as client:
        client.send(frame(PING) * 400)
        assert client.close_code() == 1008


def test_5_a_deflate_bomb(server: Server) -> None:
    compressor = zlib.compressobj(wbits=-12)
    # A full flush forgets what came before it: the same block again and again inflates to 512 MiB.
    block = compressor.compress(bytes(4 * MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    bomb = block * 128
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    with attacked(server):
        for part in (bomb[:60_000], bomb):  # within the limit on the wire, and the whole of it
            with Client(server, "/link?name=attacker", offer) as client:
                assert "permessage-deflate" in client.answer
                with contextlib.suppress(OSError):
                    client.send(frame(BINARY, part[:-4], rsv1=True))
                assert client.close_code() == 1009
        with Client(server, "/link?name=attacker", offer) as client:
            client.send(frame(BINARY, bomb[:30_000], rsv1=True, fin=False), frame(CONT, bomb[30_000:60_000]))
            assert client.close_code() == 1009


def test_6_a_frame_that_says_one_tebibyte(server: Server) -> None:
    with attacked(server):
        with Client(server, "/link?name=attacker") as client:
            client.send(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4))
            push(client, bytes(65_536), 64 * MIB)
            assert client.close_code() in (1009, None)
        with Client(server, "/link?name=attacker") as client:
            client.send(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4))
            assert client.close_code() == 1009


def released(opened: socket.socket, seconds: float) -> float:
    """Wait until the server has ended a connection; returns after how long."""
    start = time.monotonic()
    opened.settimeout(seconds)
    with contextlib.suppress(ConnectionError):
        while opened.recv(65_536):
            pass
    return time.monotonic() - start


@pytest.mark.parametrize("half", [b"G", b"GET /echo HTTP/1.1\r\nHost: te", b"\r\n\r\n", request("/echo")[:-3]])
def test_7_half_a_request_then_silence(server: Server, half: bytes) -> None:
    with attacked(server), connect(server) as opened:
        opened.sendall(half)
        assert released(opened, 8) < 4


def test_a_byte_now_and_then_does_not_help(server: Server) -> None:
    with attacked(server), connect(server) as opened:
        start = time.monotonic()
        opened.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - start < 5:
                opened.send(b"G" if time.monotonic() - start < 0.1 else b"E")
                with contextlib.suppress(TimeoutError):
                    if not opened.recv(1_000):
                        break
        assert time.monotonic() - start < 4


def test_8_silence_from_the_beginning(server: Server) -> None:
    with attacked(server), connect(server) as opened:
        assert released(opened, 8) < 4


def test_a_further_request_on_a_kept_connection_has_the_same_deadline(server: Server) -> None:
    ordinary = b"GET /stats HTTP/1.1\r\nHost: test\r\n\r\n"
    for half in (b"GE", b"\r\n"):
        with connect(server) as opened:
            for _ in range(2):
                opened.sendall(ordinary)
                answer = b""
                while not answer.endswith(b"0\r\n\r\n"):
                    answer += opened.recv(65_536)
                assert answer.startswith(b"HTTP/1.1 200")
            opened.sendall(half)
            assert released(opened, 8) < 4
    with connect(server) as opened:
        opened.sendall(ordinary + ordinary + b"GET /st")
        assert released(opened, 8) < 4


def test_a_slow_body_is_not_taken_for_slow_headers(server: Server) -> None:
    with connect(server) as opened:
        opened.sendall(b"POST /size HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000))
        time.sleep(1.5)
        opened.sendall(bytes(100_000))
        assert b"200000" in opened.recv(65_536) + opened.recv(65_536)


@pytest.mark.parametrize(
    "part", [b"X-A: b\r\n" * 1_000, b"X-A: " + b"b" * 8_000 + b"\r\n", b"b" * 8_000, b"X-" + b"A" * 8_000]
)
def test_9_headers_without_end(server: Server, part: bytes) -> None:
    before = server.stats()["limits"].get("header_bytes", 0)
    with attacked(server), connect(server) as opened:
        sent = 0
        opened.settimeout(3)
        with contextlib.suppress(OSError):
            opened.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nX-First: ")
            while sent < 50 * MIB:
                sent += opened.send(part)
        assert sent < 8 * MIB
        assert released(opened, 8) < 4
    assert server.stats()["limits"]["header_bytes"] == before + 1


def test_headers_over_the_budget_are_answered_with_431_in_one_piece_or_many(server: Server) -> None:
    head = b"GET /stats HTTP/1.1\r\nHost: test\r\n" + b"".join([b"X-%d: %s\r\n" % (n, b"b" * 1_000) for n in range(40)])
    with connect(server) as opened:
        opened.sendall(head + b"\r\n")
        assert opened.recv(65_536).startswith(b"HTTP/1.1 431")
    with connect(server) as opened:
        for start in range(0, len(head), 1_000):
            with contextlib.suppress(OSError):
                opened.sendall(head[start : start + 1_000])
        with contextlib.suppress(ConnectionError):
            assert opened.recv(65_536).startswith(b"HTTP/1.1 431")
    with connect(server) as opened:
        opened.sendall(head[:30_000].rpartition(b"\r\n")[0] + b"\r\n\r\n")
        assert opened.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/flood", "/link?name=attacker"])
def test_10_a_client_that_stops_reading_is_aborted(server: Server, path: str) -> None:
    before = server.stats()["limits"].get("stalled_seconds", 0)
    with attacked(server), Client(server, path, receive_buffer=4_096) as client:
        if "link" in path:
            client.send(frame(TEXT, b"flood"))
        wait_for(lambda: server.stats()["limits"].get("stalled_seconds", 0) == before + 1, 8)
        assert client.close_code() is None


def test_a_client_that_never_reads_its_answers_is_read_no_more_and_aborted(server: Server) -> None:
    with attacked(server), Client(server, "/link?name=attacker", receive_buffer=4_096) as client:
        assert push(client, frame(BINARY, bytes(60_000)), 156 * MIB) < 24 * MIB
        wait_for(lambda: not links(server))
        assert ["attacker", 4013, "stalled", False] in server.stats()["events"]


def test_a_slow_client_that_reads_is_not_aborted(server: Server) -> None:
    with Client(server, "/flood", receive_buffer=65_536) as client:
        start = time.monotonic()
        while time.monotonic() - start < 5:
            client.next_frame()
            time.sleep(0.1)


def test_11_no_pong() -> None:
    limits = {"ping_seconds": 1.0, "pong_seconds": 1.0}
    # The bystander does not answer pings either; it lives by its messages.
    with serving(limits=limits) as server, attacked(server), Client(server, "/link?name=attacker"):
        wait_for(lambda: not links(server))
        assert server.stats()["events"][-1] == ["attacker", 4012, "no pong", False]


def test_12_more_sockets_than_descriptors() -> None:
    with serving(files=64, limits={"header_seconds": 2.0}) as server:
        bystander = Client(server, "/link?name=bystander")
        opened = [connect(server) for _ in range(120)]
        try:
            before = server.cpu()
            time.sleep(1)
            bystander.send(frame(TEXT, b"there?"))
            assert bystander.text() == "there?"
            assert server.cpu() - before < 0.6
            time.sleep(1.5)
        finally:
            for one in opened:
                one.close()
        wait_for(lambda: _answers(server), 10, "the server accepts again")
        bystander.send(frame(TEXT, b"still there?"))
        assert bystander.text() == "still there?"


def _answers(server: Server) -> bool:
    try:
        return bool(server.stats())
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "seconds"),
    [
        (lambda client: client.send(frame(TEXT, b"flood")), 15),
        (lambda client: push(client, frame(PING, b"x" * 125) * 512, 156 * MIB), 15),
        (lambda client: many(client), 15),
        (lambda client: None, 36),
    ],
    ids=["stops reading", "floods with pings", "fragments", "no pong"],
)
def test_with_every_default(attack: Callable[[Client], object], seconds: float) -> None:
    path = "/link?name=attacker"
    with serving() as server, attacked(server), Client(server, path, receive_buffer=4_096) as client:
        start = time.monotonic()
        attack(client)
        wait_for(lambda: not links(server), seconds + 2)
        assert time.monotonic() - start < seconds


def many(client: Client) -> None:
    client.send(frame(TEXT, b"ab", fin=False))
    push(client, frame(CONT, b"ab", fin=False) * 8_192, 64 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("half", [b"", b"GET /echo HT"])
def test_headers_with_every_default(half: bytes) -> None:
    with serving() as server, attacked(server), connect(server) as opened:
        opened.sendall(half)
        assert 4.5 < released(opened, 15) < 6
