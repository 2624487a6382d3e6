"""The host of a request: exactly one, and never repeated in a redirect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.links.wire import Client, Server, connect, request, serving

from tidewire.links.host import BadHost, relative_redirects, set_host


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def ask(server: Server, *lines: str, target: str = "/stats", version: str = "1.1") -> str:
    head = "\r\n".join([f"GET {target} HTTP/{version}", *lines, "Connection: close"])
    with connect(server) as opened:
        opened.sendall(f"{head}\r\n\r\n".encode("latin-1"))
        answer = b""
        while data := opened.recv(65_536):
            answer += data
    return answer.decode("latin-1")


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Host: one", "Host: two"),
        ("Host: same", "Host: same"),
        ("Host:",),
        ("Host:  \t",),
        ("Host: two words",),
        ("Host: a,b/c",),
        ("Host: user@example.org",),
        ("Host: example.org:port",),
        ("Host: [::1",),
        ("Host: ex\xe4mple.org",),
    ],
)
def test_a_request_without_one_host_is_refused_whatever_it_asks_for(server: Server, lines: tuple[str, ...]) -> None:
    answer = ask(server, *lines)
    assert answer.startswith("HTTP/1.1 400 ")
    assert "Host" in answer or "is no host" in answer
    with connect(server) as opened:
        opened.sendall(request("/echo", *lines, host=False))
        assert opened.recv(65_536).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:8000", "example.org:", "[::1]:80", "a_b.example", "127.0.0.1"]
)
def test_a_request_with_one_host_is_answered(server: Server, host: str) -> None:
    assert ask(server, f"Host: {host}").startswith("HTTP/1.1 200 ")
    assert ask(server, f"Host:\t{host} ").startswith("HTTP/1.1 200 ")


def test_the_old_version_needs_no_host_and_takes_no_two(server: Server) -> None:
    assert ask(server, version="1.0").startswith("HTTP/1.1 200 ")
    assert ask(server, "Host: one", "Host: two", version="1.0").startswith("HTTP/1.1 400 ")


def test_the_target_names_the_host_where_it_is_absolute(server: Server) -> None:
    assert ask(server, "Host: other", target="http://example.org/stats").startswith("HTTP/1.1 200 ")
    assert ask(server, target="http://example.org/stats").startswith("HTTP/1.1 400 ")
    assert ask(server, "Host: other", target="http://user@example.org/stats").startswith("HTTP/1.1 400 ")
    with Client(server, "http://example.org/scope?a=b", "Host: other") as client:
        assert client.status == 400, "two hosts"
    with connect(server) as opened:
        opened.sendall(request("http://example.org:81/scope?a=b"))
        client = Client.__new__(Client)
        client.socket, client.buffer = opened, b""
        client.answer = client.read_head()
        scope: Any = client.text()
        assert '"path": "/scope"' in scope
        assert '["host", "example.org:81"]' in scope


def test_a_header_is_replaced_by_the_host_of_the_target() -> None:
    headers = [(b"accept", b"*/*"), (b"host", b"evil.example")]
    set_host(b"http://example.org:81/path", headers, "1.1")
    assert headers == [(b"accept", b"*/*"), (b"host", b"example.org:81")]
    with pytest.raises(BadHost, match="is no host"):
        set_host(b"http:///path", headers, "1.1")


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        (b"http://evil.example/rooms/?a=b", b"/rooms/?a=b"),
        (b"http://evil.example", b"/"),
        (b"http://evil.example?a=b", b"/?a=b"),
        (b"http://evil.example//other.example/", b"/.//other.example/"),
        (b"http://evil.example/\\other.example/", b"/./\\other.example/"),
        (b"http://evil.example.org/", b"http://evil.example.org/"),
        (b"http://evil.example:81/", b"http://evil.example:81/"),
        (b"https://evil.example/secure", b"https://evil.example/secure"),
        (b"/relative", b"/relative"),
        (b"https://elsewhere.example/", b"https://elsewhere.example/"),
    ],
)
def test_a_redirect_to_the_own_host_does_not_name_it(location: bytes, sent: bytes) -> None:
    scope = {"scheme": "http", "headers": [(b"host", b"evil.example")]}
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    headers = [(b"Location", location), (b"x-other", location)]
    start = {"type": "http.response.start", "status": 307, "headers": headers}
    asyncio.run(relative_redirects(scope, send)(start))  # type: ignore[arg-type]
    assert events[0]["headers"] == [(b"Location", sent), (b"x-other", location)]
    assert start["headers"] is headers
    asyncio.run(relative_redirects(scope, send)({**start, "status": 201}))  # type: ignore[arg-type]
    assert events[1]["headers"][0] == (b"Location", location)
