"""The looks of the commands that watch, in a terminal of 80 columns and in a pipe, and the truth in their errors."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.server.live_server import COMMAND, environment, tidewire

from tidewire.cli.operator_targets import _Server
from tidewire.errors import ConfigurationError, TidewireError

FIGURES = {
    **dict.fromkeys(("connections", "users", "channels", "subscriptions"), 10_000),
    **dict.fromkeys(("publications", "deliveries", "refusals", "slow", "gaps"), 123_456_789),
    "unsent_bytes": 3 * 2**30,
}
NODE = {"node": "497fb8d47c54", "host": "web-1", "process": 12345, "uptime": 86_400.0, "degraded": True, "parts": {}}
ROW = {
    "client": "beec6e05a203-190",
    "user": "",
    "address": "203.0.113.254",
    "age": 1_277.9,
    "kind": "websocket",
    "protocol": "centrifuge_json",
    "state": "open",
    "subscriptions": 1,
    "channels": ["room:a-channel-with-a-long-name"],
    "unsent": 0,
    "error": "",
}
ANSWERS: dict[str, dict[str, Any]] = {
    "status": {"nodes": [NODE | FIGURES]},
    "connection_list": {"total": 1, "connections": [ROW]},
    "why": {"allowed": False, "reason": "no rule is for it", "rule": "*"},
}


@contextmanager
def answering(tls: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"result": ANSWERS[self.path.rpartition("/")[2]]}).encode()
            self.send_response(200 if self.headers.get("x-api-key") in (None, "right") else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        self.text = ""
        self._own, theirs = pty.openpty()
        variables = environment(COLUMNS="80", LINES="24", TERM="xterm", NO_COLOR="1")
        self._process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)

    def wait(self, words: str | None = None) -> str:
        """Read until these words come, or to the end; return all that was written."""
        limit = time.monotonic() + 60
        while words is None or words not in self.text:
            assert time.monotonic() < limit, self.text
            if select.select([self._own], [], [], 0.1)[0]:
                try:
                    self.text += re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", os.read(self._own, 65_536).decode())
                except OSError:  # the command has ended
                    break
        return self.text

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        os.close(self._own)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("status",), ["web-1:12345", "conns", "deliv/s", "10,000", "3.0 GiB", "store: away for web-1:12345"]),
        (("connections",), [ROW["client"], ROW["address"], "centrifuge_json"]),
    ],
)
def test_a_terminal_of_80_columns_shows_whole_words(tmp_path: Path, command: tuple[str, ...], words: list[str]) -> None:
    with answering() as server:
        terminal = Terminal(*command, "--server", f"http://127.0.0.1:{server.server_port}", folder=tmp_path)
        text = terminal.wait()
        terminal.close()
    assert [word for word in words if word not in text] == []
    assert max(map(len, text.replace("\r", "").split("\n"))) <= 80


def test_a_pipe_is_given_every_column_whole(tmp_path: Path) -> None:
    with answering() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        lines = tidewire("connections", "--server", url, folder=tmp_path, COLUMNS="40").stdout.splitlines()
    assert len(lines) == 2
    assert [ROW["client"], ROW["channels"][0]] == [lines[1].split()[0], lines[1].split()[-1]]


def test_a_channels_name_is_no_emoji(tmp_path: Path) -> None:
    with answering() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        ended = tidewire("why", "ann", "nobody:x", "--server", url, folder=tmp_path)
    assert ended.stdout.startswith("ann may not publish in nobody:x: no rule is for it")


def test_top_goes_on_while_its_server_is_away(tmp_path: Path) -> None:
    with answering() as server:
        terminal = Terminal("top", "--server", f"http://127.0.0.1:{server.server_port}", folder=tmp_path)
        terminal.wait("store: away")
        assert "no answer" not in terminal.text
    terminal.wait("no answer: these figures are its last")
    terminal.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    folder = tmp_path_factory.mktemp("tls")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, folder / "certificate.pem"


def error_of(url: str, key: str = "") -> TidewireError:
    with pytest.raises(TidewireError) as caught:
        asyncio.run(_Server(url, key)("status", {}))
    return caught.value


def test_a_certificate_that_nobody_signed_is_named_and_can_be_trusted(
    tmp_path: Path, tls: tuple[ssl.SSLContext, Path]
) -> None:
    context, certificate = tls
    with answering(context) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        error = error_of(url)
        ended = tidewire("status", "--json", "--server", url, folder=tmp_path, SSL_CERT_FILE=str(certificate))
        plain = error_of(url.replace("https", "http"))
    assert isinstance(error, ConfigurationError)
    assert "certificate that is not trusted here (self-signed certificate)" in str(error)
    assert "SSL_CERT_FILE" in str(error)
    assert json.loads(ended.stdout) == ANSWERS["status"]
    assert "if it has TLS, write https://" in str(plain)


def test_a_server_without_tls_is_named() -> None:
    with answering() as server:
        assert "does not speak TLS" in str(error_of(f"https://127.0.0.1:{server.server_port}"))


def test_a_wrong_key_is_no_missing_one() -> None:
    with answering() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        assert "does not take this key" in str(error_of(url, "wrong"))
        assert asyncio.run(_Server(url, "right")("status", {})) == ANSWERS["status"]
