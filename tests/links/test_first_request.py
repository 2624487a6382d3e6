"""A handshake that comes in one piece is read without an HTTP parser, and just as that reads it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import httptools
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from links.wire import Server, serving
from tidewire.limits import Limits
from tidewire.links.first_request import FirstRequestProtocol, configured
from tidewire.links.handshake import read_handshake
from tidewire.links.http import HttpProtocol
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.links.uvicorn import configured as configured_ws

HEADERS = (
    b"Host: here",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def request(*headers: bytes, line: bytes = b"GET /chat?token=a HTTP/1.1", end: bytes = b"\r\n\r\n") -> bytes:
    return b"\r\n".join((line, *(headers or HEADERS))) + end


def test_a_whole_handshake_is_read_with_what_is_behind_it() -> None:
    found = read_handshake(request(*HEADERS, b"X-Empty:", b"X-Wide: \t a b\xe9 \t") + b"behind", 32_768)
    assert found is not None
    path, headers, early = found
    assert (path, early) == (b"/chat?token=a", b"behind")
    assert headers[0] == (b"host", b"here")
    assert headers[-2:] == [(b"x-empty", b""), (b"x-wide", b"a b\xe9")]


@pytest.mark.parametrize(
    "data",
    [
        request(line=b"POST /chat HTTP/1.1"),
        request(line=b"GET /chat HTTP/1.0"),
        request(line=b"GET http://here/chat HTTP/1.1"),
        request(line=b"GET /a b HTTP/1.1"),
        request(line=b"GET /caf\xc3\xa9 HTTP/1.1"),
        request(line=b"GET  /chat HTTP/1.1"),
        request(*HEADERS, b"Content-Length: 5"),
        request(*HEADERS, b"Transfer-Encoding: chunked"),
        request(*HEADERS, b"Expect: 100-continue"),
        request(*HEADERS, b"Host: elsewhere"),
        request(*HEADERS[1:]),
        request(b"Host: a b", *HEADERS[1:]),
        request(*HEADERS[:1], b"Upgrade: h2c", *HEADERS[2:]),
        request(*HEADERS[:2], b"Connection: close", *HEADERS[3:]),
        request(*HEADERS, b"X-Space : a"),
        request(*HEADERS, b"X-Folded: a", b" b"),
        request(*HEADERS, b"X-Line: a\nb: c"),
        request(*HEADERS, b"X-Return: a\rb: c"),
        request(*HEADERS, b"X-Null: \0"),
        request(*HEADERS, b"nothing"),
        request(*HEADERS, b": nameless"),
        request().replace(b"\r\n", b"\n"),
        request()[:-2],
        request(*HEADERS, b"X-Long: " + b"x" * 32_768),
        b"",
    ],
    ids=[
        "method",
        "version",
        "absolute",
        "blank in the path",
        "path beyond ASCII",
        "two blanks",
        "content-length",
        "transfer-encoding",
        "expect",
        "two hosts",
        "no host",
        "no such host",
        "another upgrade",
        "no upgrade",
        "blank before the colon",
        "folded",
        "line feed",
        "return",
        "null",
        "no colon",
        "no name",
        "line feeds alone",
        "incomplete",
        "too long",
        "empty",
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    assert read_handshake(data, 32_768) is None


class Parsed:
    """What the parser of uvicorn's HTTP class finds."""

    def __init__(self) -> None:
        self.path = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))  # as links/http.py


def parsed(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    found = Parsed()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        return found.path, found.headers, data[upgrade.args[0] :]
    raise AssertionError("no upgrade")


@given(
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=4),
    st.lists(st.sampled_from([b"X-A: b", b"Cookie: a=b; c", b"Origin: https://here", b"X: ", b"Content-Length: 0"])),
    st.binary(max_size=4),
)
def test_what_is_read_is_what_the_parser_finds(
    changes: list[tuple[int, bytes]], more: list[bytes], behind: bytes
) -> None:
    """However some bytes are changed, no request is read in another way: else a proxy could be deceived."""
    data = request(*HEADERS, *more) + behind
    for place, other in changes:
        data = data[:place] + other + data[place + 1 :]
    found = read_handshake(data, 32_768)
    if found is not None:
        assert found == parsed(data)


@pytest.mark.parametrize(
    "filler", [b" ", b"a:", b"a: b\r\n", b"\t", b":"], ids=["blanks", "colons", "lines", "tabs", ":"]
)
def test_no_bytes_take_long(filler: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nhost: a" + filler * (1_000_000 // len(filler)) + b"\0"
    began = time.process_time()
    assert read_handshake(data, 65_536) is None
    assert time.process_time() - began < 0.5


class Transport:
    """Remembers the protocols that it is given, for the bytes that it gives to the first."""

    def __init__(self, first: asyncio.Protocol) -> None:
        self.protocols = [first]
        self.is_closed = False
        first.connection_made(cast(asyncio.Transport, self))

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocols.append(protocol)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...

    def write(self, data: bytes) -> None: ...

    def get_extra_info(self, name: str) -> None: ...


@pytest.mark.parametrize(
    ("data", "ws", "kinds"),
    [
        (request(), configured_ws(Limits()), [FirstRequestProtocol]),
        (request(), WebSocketProtocol, [FirstRequestProtocol]),
        (request(), "websockets-sansio", [FirstRequestProtocol, HttpProtocol]),
        (request(line=b"GET / HTTP/1.0"), WebSocketProtocol, [FirstRequestProtocol, HttpProtocol]),
    ],
    ids=["ours, configured", "ours", "another class", "another request"],
)
def test_a_websocket_keeps_the_protocol_of_its_first_byte(data: bytes, ws: Any, kinds: list[type]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def main() -> None:
        config, state = uvicorn.Config(app, ws=ws, lifespan="off", log_config=None), ServerState()
        config.load()
        transport = Transport(configured(Limits())(config, state, {}))
        with contextlib.suppress(AttributeError):  # the parser's class asks more of the transport
            transport.protocols[0].data_received(data)
        assert [type(protocol) for protocol in transport.protocols] == kinds
        for connection in tuple(state.connections):
            connection.connection_lost(None)
        assert not state.connections
        await asyncio.gather(*state.tasks)

    asyncio.run(main())


def test_a_connection_ends_before_its_first_byte() -> None:
    async def main() -> None:
        config, state = uvicorn.Config("nowhere:app", lifespan="off", log_config=None), ServerState()
        config.load_app = lambda: None  # type: ignore[method-assign]
        config.load()
        gone, drained = (Transport(configured(Limits())(config, state, {})) for _ in range(2))
        assert len(state.connections) == 2
        assert gone.protocols[0].eof_received() is None  # the transport closes
        gone.protocols[0].connection_lost(None)
        (left,) = state.connections
        left.shutdown()
        assert drained.is_closed

    asyncio.run(main())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(limits={"header_seconds": 1.0}) as running:
        yield running


@pytest.mark.parametrize("pieces", [1, 2, 40], ids=["whole", "halves", "bytes"])
def test_a_handshake_is_answered_alike_in_whatever_pieces_it_comes(server: Server, pieces: int) -> None:
    data = request(line=b"GET /echo HTTP/1.1") + b"\x81\x82\0\0\0\0hi"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            client.sendall(data[start : start + size])
            time.sleep(0.005)
        received = b""
        while not received.endswith(b"\x81\x02hi"):
            received += client.recv(4_096)
    assert received.startswith(b"HTTP/1.1 101 ")


def test_a_client_that_says_nothing_or_too_little_is_refused_in_time(server: Server) -> None:
    for begun in (b"", b"GET / HTTP/1.1\r\n"):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(begun)
            assert client.recv(4_096).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - began >= 0.9


def answer(server: Server, data: bytes) -> tuple[bytes, object]:
    """Return what a request is answered, but for what differs from one connection to the next."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(data)
        while b"}" not in received and (more := client.recv(65_536)):
            received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        return re.sub(rb"(?i)date: [^\r]*", b"", head), rest
    told, _ = json.JSONDecoder().raw_decode(rest[rest.index(b"{") :].decode("latin-1"))
    if told["client"][1]:  # a proxy tells no port
        told["client"][1] = 1
    return re.sub(rb"(?i)date: [^\r]*", b"", head), told


@pytest.mark.parametrize(
    "data",
    [
        request(line=line + b" HTTP/1.1")
        for line in (
            b"GET /scope",
            b"GET /scope?",
            b"GET /scope?token=a%20b&c=%zz",
            b"GET /%73cope?a?b",
            b"GET //scope",
            b"GET /scope/#part",
            b"GET /scope?a#part?b",
            b"GET /scope;a=b",
            b"GET /sc%6Fpe/%2F%e9%C3%A9",
        )
    ]
    + [
        request(*HEADERS, *more, line=b"GET /scope HTTP/1.1")
        for more in (
            [b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: https"],
            [b"X-Forwarded-For: 192.0.2.7, 198.51.100.1", b"X-Forwarded-Proto: wss"],
            [b"X-Forwarded-Host: elsewhere", b"Forwarded: for=192.0.2.7"],
            [b"X-Forwarded-For:", b"X-Forwarded-Proto: \t"],
            [b"Origin: https://here \t", b"X-User: ann  "],
            [b"Origin: https://here", b"Origin: https://elsewhere"],
            [b"ORIGIN:https://here", b"cOOKIE: a=b; c=d"],
            [b"Sec-WebSocket-Protocol: chat, other", b"Sec-WebSocket-Extensions: permessage-deflate"],
            [b"Sec-WebSocket-Protocol: chat", b"Sec-WebSocket-Protocol: other"],
            [b"Sec-WebSocket-Protocol: "],
            [b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
            [b"Sec-WebSocket-Version: 8"],
            [b"Upgrade: websocket"],
            [b"Connection: close"],
            [b"Proxy-Connection: close", b"Keep-Alive: timeout=5", b"TE: trailers", b"Trailer: x"],
            [b"X-Latin: caf\xe9", b"!#$%&'*+.^_`|~-: odd name"],
            [b"Content-Length: 0"],
            [b"Host: here"],
            [b"Authorization: Bearer a.b.c"],
        )
    ]
    + [
        request(*HEADERS[:place], other, *HEADERS[place + 1 :], line=b"GET /scope HTTP/1.1")
        for place, other in (
            (0, b"Host: here:80 \t"),
            (0, b"Host: [::1]:8000"),
            (0, b"Host: a/b"),
            (0, b"Host: ann@here"),
            (1, b"Upgrade: WebSocket "),
            (1, b"upgrade:websocket\t"),
            (2, b"Connection: upgrade \t"),
            (2, b"Connection: keep-alive, Upgrade"),
            (2, b"Connection: keep-alive,Upgrade"),
            (3, b"Sec-WebSocket-Version: 13 "),
            (3, b"Sec-WebSocket-Version: 12"),
            (3, b"X-No: version"),
            (4, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ== "),
            (4, b"Sec-WebSocket-Key: short"),
            (4, b"X-No: key"),
        )
    ],
)
def test_a_handshake_is_answered_as_the_parser_reads_it(server: Server, data: bytes) -> None:
    """An empty line in front of a request says nothing, but it is left to the parser (RFC 9112 section 2.2)."""
    assert read_handshake(b"\r\n" + data, 32_768) is None
    assert answer(server, data) == answer(server, b"\r\n" + data)


def test_what_comes_behind_a_refused_handshake_is_not_read(server: Server) -> None:
    refused = request(*HEADERS[:3], line=b"GET /scope HTTP/1.1")
    for before in (b"", b"\r\n"):
        assert answer(server, before + refused + request(line=b"GET /crash HTTP/1.1")) == answer(server, refused)
    assert "a bug in the application" not in server.log()
