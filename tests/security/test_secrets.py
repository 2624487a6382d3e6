"""What a server writes down: no token, whichever way one comes, and no traceback for a client that just goes."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from server.live_server import LiveServer, wait_for
from tidewire import Hub, JwtIdentity, Publisher, Tickets
from tidewire.errors import ConfigurationError
from tidewire.server.logs import Clean

SECRET = "s3cr3t-that-nobody-may-read"
CONNECT = quote(json.dumps({"token": SECRET, "subs": {"talk:1": {}}}))
COMMAND = quote(json.dumps({"id": 1, "connect": {"token": SECRET}}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "tidewire.toml").write_text('[http_api]\nkey = "the key of the API"\n')
    with LiveServer(folder, "--access-log", "--log-level", "debug") as running:
        yield running


def asked(server: LiveServer, data: bytes) -> socket.socket:
    """Send bytes on a connection of their own."""
    url = httpx.URL(server.url)
    opened = socket.create_connection((url.host, url.port or 80), timeout=10)
    opened.sendall(data)
    return opened


def test_no_token_is_written_down(server: LiveServer) -> None:
    for path in (
        f"/connection/uni_sse?cf_connect={CONNECT}",
        f"/connection/sse?cf_connect={COMMAND}",
        f"/nowhere?cf_connect={CONNECT}",
        f"/api/info?api_key={SECRET}",
        f"/api/pipelines/runs?token={SECRET}",
        f"http://user:{SECRET}@server/healthz?token={SECRET}",
    ):
        for head in (f"GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {SECRET}\r\n",
                     f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: token={SECRET}\r\n",
                     f"GET {path} HTTP/9.9\r\nHost: 127.0.0.1\r\n"):  # fmt: skip
            with asked(server, f"{head}Connection: close\r\n\r\n".encode()) as opened:
                assert opened.recv(65_536)
    for path in ("/connection/websocket", "/connection/uni_websocket", "/ws/auth", "/pipeline/S1", "/nowhere"):
        with (
            contextlib.suppress(WebSocketException, TimeoutError),
            connect(f"{server.websocket_url}{path}?token={SECRET}&cf_connect={CONNECT}", proxy=None) as opened_socket,
        ):
            opened_socket.send(json.dumps({"id": 1, "connect": {"token": SECRET}}))
            opened_socket.recv(timeout=0.3)
    server.post("/api/publish", json={"channel": "talk:1", "data": 1}, headers={"X-API-Key": SECRET})
    server.post("/login", json={"username": "ann", "password": SECRET})
    wait_for(lambda: "/login" in server.err, what="the last request is written down")
    assert SECRET not in server.err + server.out


URL = f"redis://user:{SECRET}@store"
#: Mistakes with secrets, each with a value of the wrong type or a wrong address.
MISTAKES: dict[str, Callable[[Any], Any]] = {
    "api_router": lambda wrong: Hub().api_router(key=wrong(SECRET)),
    "metrics_router": lambda wrong: Hub().metrics_router(key=wrong(SECRET)),
    "Tickets": lambda wrong: Tickets(Hub(), wrong(SECRET * 2)),
    "webhook": lambda wrong: Hub().webhook("https://example.org/", secret=wrong(SECRET), events=["connected"]),
    "JwtIdentity": lambda wrong: JwtIdentity(secret=wrong(SECRET)),
    "Hub": lambda wrong: Hub(wrong(URL)),
    "Publisher": lambda wrong: Publisher(wrong(URL)),
    "webhook(url)": lambda wrong: Hub().webhook(wrong(URL), secret="s" * 32, events=["connected"]),
}
ADDRESSES: dict[str, Callable[[str], Any]] = {
    "Hub": Hub,
    "webhook": lambda url: Hub().webhook(url, secret="s" * 32, events=["connected"]),
    "JwtIdentity": lambda url: JwtIdentity(jwks=url),
}


@pytest.mark.parametrize("what", MISTAKES)
@pytest.mark.parametrize("wrong", [str.encode, lambda text: [text], lambda text: {"key": text}])
def test_an_error_about_a_secret_does_not_show_it(what: str, wrong: Any) -> None:
    """`metrics_router(key=b"…")` said: key=b'…' is no key."""
    with pytest.raises(ConfigurationError) as raised:
        MISTAKES[what](wrong)
    assert SECRET[:6] not in str(raised.value)


@pytest.mark.parametrize("what", ADDRESSES)
@pytest.mark.parametrize(
    "url",
    [
        f"ftp://user:{SECRET}@host/",
        f"user:{SECRET}@host",
        f"redis:///user:{SECRET}@host",
        f"ftp://host/?token={SECRET}",
    ],
)
def test_an_error_about_an_address_shows_no_password(what: str, url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ADDRESSES[what](url)
    assert SECRET[:6] not in str(raised.value)


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "cf_connect"])
def test_a_secret_in_a_url_is_hidden_whoever_writes_it(name: str) -> None:
    record = logging.LogRecord("other", logging.INFO, "", 0, "asked for /x?a=1&%s=%s&b=2", (name, SECRET), None)
    Clean().filter(record)
    assert record.getMessage() == f"asked for /x?a=1&{name}=***&b=2"


@pytest.mark.parametrize(
    "path", ["/emulation", "/connection/http_stream", "/connection/sse", "/connection/uni_sse", "/api/publish",
             "/api/pipelines/uploads?name=x", "/api/pipelines/runs", "/login"]
)  # fmt: skip
def test_a_client_that_goes_within_its_request_leaves_no_traceback(server: LiveServer, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: the key of the API\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    before = len(server.err)
    with asked(server, head.encode()) as opened:
        assert b"100 Continue" in opened.recv(65_536)  # the body is waited for
        opened.sendall(b"{")
    # the next request is written down behind whatever the last one left
    server.get(f"/behind{path.partition('?')[0]}")
    wait_for(lambda: "/behind" in server.err[before:])
    assert "Traceback" not in server.err[before:]
