"""Requests that never end, and requests that are too many: each against a server process, judged as in test_hostile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from tests.links.wire import Server, connect, request, serving, wait_for
from tests.security.test_hostile import MIB, attacked, released

GET = b"GET /size HTTP/1.1\r\nHost: test\r\n\r\n"
ENDLESS = b"GET /endless HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /size HTTP/1.1\r\nHost: test\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(limits={"body_seconds": 1.0, "body_rate": 1_000.0}) as running:
        yield running


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"Content-Length: 1000\r\n\r\n", b""),
        (b"Content-Length: 1000\r\n\r\n", b"x"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n1;", b"extension"),
    ],
)
def test_a_body_that_never_ends(server: Server, head: bytes, part: bytes) -> None:
    before = server.stats()["limits"].get("body_seconds", 0)
    with attacked(server), connect(server) as opened:
        began = time.monotonic()
        opened.sendall(POST + head)
        opened.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - began < 8:
            with contextlib.suppress(TimeoutError):
                answer = opened.recv(65_536)
            with contextlib.suppress(ConnectionError):
                opened.sendall(part)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert time.monotonic() - began < 5
    assert server.stats()["limits"]["body_seconds"] == before + 1


def test_a_slow_body_at_the_rate_is_taken(server: Server) -> None:
    with connect(server) as opened:
        opened.sendall(POST + b"Content-Length: 4000\r\n\r\n")
        for _ in range(20):
            opened.sendall(bytes(200))
            time.sleep(0.1)
        assert b"4000" in opened.recv(65_536) + opened.recv(65_536)


def test_thousands_of_requests_behind_an_answer_without_end(server: Server) -> None:
    before = server.stats()["limits"].get("pipelined", 0)
    with attacked(server), connect(server) as opened:
        opened.sendall(ENDLESS)
        sent = 0
        opened.settimeout(3)
        with contextlib.suppress(OSError):
            while sent < 20 * MIB:
                sent += opened.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n" * 10_000)
        assert sent < 8 * MIB
        assert released(opened, 8) < 4
    assert server.stats()["limits"]["pipelined"] == before + 1


def test_a_few_requests_at_once_are_answered(server: Server) -> None:
    with connect(server) as opened:
        opened.sendall(GET * 12)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 12 and (data := opened.recv(65_536)):
            answers += data
    assert answers.count(b"HTTP/1.1 200") == 12


def test_nothing_stands_within_an_answer_that_has_begun(server: Server) -> None:
    with connect(server) as opened:
        opened.sendall(ENDLESS)
        received = opened.recv(65_536)
        with contextlib.suppress(ConnectionError):
            opened.sendall(b"NONSENSE\r\n\r\n")
            while data := opened.recv(65_536):
                received += data
        assert received.count(b"HTTP/1.1") == 1, received


def test_a_handshake_within_an_answer_ends_both(server: Server) -> None:
    """Else the answer's call would never learn that its client has gone: a stream would stay, and its member."""
    before = server.stats()["events"].count(["endless", "http.disconnect"])
    with connect(server) as opened:
        opened.sendall(ENDLESS)
        received = opened.recv(65_536)
        with contextlib.suppress(ConnectionError):
            opened.sendall(request("/echo"))
            while data := opened.recv(65_536):
                received += data
        assert b"HTTP/1.1 101" not in received
        wait_for(lambda: server.stats()["events"].count(["endless", "http.disconnect"]) == before + 1)
