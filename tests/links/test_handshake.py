"""The opening handshake: the short way of the ordinary request says what the core of `websockets` says."""

from __future__ import annotations

import asyncio

import pytest

from tidewire.errors import ConfigurationError
from tidewire.links import handshake as module
from tidewire.links.handshake import Handshake

ORDINARY = {
    b"host": b"localhost",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-version": b"13",
}


def take(changes: dict[bytes, bytes | None], method: str = "GET", path: bytes = b"/ws?q=1") -> tuple[bytes, Handshake]:
    headers = [(name, value) for name, value in {**ORDINARY, **changes}.items() if value is not None]
    handshake = Handshake(deflate=False)
    return handshake.take(method, path, headers) or b"", handshake


def test_answers_the_example_of_the_rfc() -> None:
    refusal, handshake = take({})
    assert not refusal
    assert handshake.path == "/ws?q=1"
    answer, extensions = handshake.accept([(b"x-more", b"1")], None)
    assert answer == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nx-more: 1\r\n\r\n"
    )
    assert not extensions


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\r\n", b"\n"])
def test_an_answer_has_no_line_that_nobody_meant(value: bytes) -> None:
    _, handshake = take({})
    with pytest.raises(ConfigurationError, match="line break"):
        handshake.accept([(b"x-more", value)], None)
    with pytest.raises(ConfigurationError, match="line break"):
        handshake.accept((), value.decode())


@pytest.mark.parametrize(
    "changes",
    [
        {b"connection": b"keep-alive, Upgrade"},
        {b"connection": b"foo, upgrade, bar"},
        {b"upgrade": b"WebSocket"},
        {b"sec-websocket-protocol": b"centrifuge-json, other"},
        {b"sec-websocket-extensions": b"permessage-deflate"},
        {b"content-length": b"0"},
    ],
)
def test_both_ways_accept_what_the_rfc_allows(changes: dict[bytes, bytes | None]) -> None:
    refusal, handshake = take(changes)
    assert not refusal
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in handshake.accept((), None)[0]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({b"host": None}, b"400"),
        ({b"upgrade": b"h2c"}, b"426"),
        ({b"upgrade": None}, b"426"),
        ({b"connection": b"close"}, b"426"),
        ({b"sec-websocket-version": b"8"}, b"400"),
        ({b"sec-websocket-key": None}, b"400"),
        ({b"sec-websocket-key": b"too short"}, b"400"),
        ({b"sec-websocket-key": b"AAAAAAAAAAAAAAAAAAAAAA"}, b"400"),
        ({b"content-length": b"5"}, b"400"),
        ({b"transfer-encoding": b"chunked"}, b"400"),
    ],
)
def test_neither_way_accepts_anything_else(changes: dict[bytes, bytes | None], status: bytes) -> None:
    refusal, handshake = take(changes)
    assert refusal.startswith(b"HTTP/1.1 " + status), refusal[:80]
    assert handshake.path is None


def test_a_header_that_comes_twice_is_for_the_core_to_judge() -> None:
    handshake = Handshake(deflate=False)
    refusal = handshake.take("GET", b"/ws", [*ORDINARY.items(), (b"host", b"other")])
    assert refusal is not None
    assert refusal.startswith(b"HTTP/1.1 400")


def test_another_method_is_refused() -> None:
    refusal, _ = take({}, method="POST")
    assert refusal.startswith(b"HTTP/1.1 4")


def offered(offer: bytes, connection: bytes) -> list[str] | bytes:
    """Return the subprotocols that an application is told, or the first line of the refusal."""
    refusal, handshake = take({b"sec-websocket-protocol": offer, b"connection": connection})
    if refusal:
        return refusal.partition(b"\r\n")[0]
    found: list[str] = handshake.scope(asyncio.Transport(), "3.0", "")["subprotocols"]
    return found


@pytest.mark.parametrize(
    "offer",
    [b"chat", b"a,b", b"chat, news", b"chat ,\tnews,x", b"chat, chat", b"chat,", b",", b"", b"a b", b'"a"', b"\xe9"],
)
def test_both_ways_read_the_same_offer_of_subprotocols(offer: bytes) -> None:
    assert offered(offer, b"Upgrade") == offered(offer, b"foo, upgrade")


def test_an_ordinary_offer_of_subprotocols_does_not_cost_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "_judges")
    assert offered(b"centrifuge-protobuf, chat", b"Upgrade") == ["centrifuge-protobuf", "chat"]
