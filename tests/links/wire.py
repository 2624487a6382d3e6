"""A server process, and a client on a raw socket that can break every rule."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.ending import end_process

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], Any], seconds: float = 10.0, why: str = "") -> Any:
    """Return the condition's first true value; fails after the limit."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {why or condition}")
        time.sleep(0.02)


class Server:
    """A running `wire_app`."""

    def __init__(self, process: subprocess.Popen[str], log: Path, *, tls: bool) -> None:
        self.process = process
        self.log_file = log
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server did not start: {self.log()}"
        self.port = int(line)
        self.scheme = "s" if tls else ""
        wait_for(self._is_up, 15, "the server answers")

    def _is_up(self) -> bool:
        try:
            return bool(self.stats())
        except OSError:
            assert self.process.poll() is None, self.log()
            return False

    def url(self, path: str) -> str:
        return f"ws{self.scheme}://127.0.0.1:{self.port}{path}"

    def stats(self) -> dict[str, Any]:
        context = ssl._create_unverified_context() if self.scheme else None
        address = f"http{self.scheme}://127.0.0.1:{self.port}/stats"
        with urllib.request.urlopen(address, timeout=10, context=context) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def rss(self) -> float:
        """Resident size in MiB."""
        return self.stats()["rss"] / 1_048_576  # type: ignore[no-any-return]

    def cpu(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self) -> str:
        return self.log_file.read_text()

    def stop(self) -> list[Any]:
        """End the server as a deploy does; returns what its application was told."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        told = self.process.stdout.read()
        self.process.wait(20)
        return json.loads(told) if told else []  # type: ignore[no-any-return]


@contextlib.contextmanager
def serving(*, tls: tuple[str, str] | None = None, files: int | None = None, **options: Any) -> Iterator[Server]:
    """Run a server; `options` are those of `wire_app`."""
    if tls is not None:
        options["uvicorn"] = {**options.get("uvicorn", {}), "ssl_certfile": tls[0], "ssl_keyfile": tls[1]}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        command = [sys.executable, "-m", "tests.links.wire_app", json.dumps(options)]
        if files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        with log.open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
        try:
            yield Server(process, log, tls=tls is not None)
        finally:
            end_process(process)
            assert process.stdout is not None
            process.stdout.close()


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv1: bool = False, masked: bool = True) -> bytes:
    """Return a client's frame, masked with zeros."""
    first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
    mask = 0x80 if masked else 0
    size = len(data)
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65_536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (bytes(4) if masked else b"") + data


class Client:
    """A WebSocket client that does just what it is told."""

    def __init__(self, server: Server, path: str = "/echo", *headers: str, receive_buffer: int | None = None) -> None:
        self.socket = connect(server, receive_buffer)
        self.buffer = b""
        self.socket.sendall(request(path, *headers))
        self.answer = self.read_head()

    def read_head(self) -> str:
        while b"\r\n\r\n" not in self.buffer:
            data = self.socket.recv(65_536)
            if not data:
                break
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.answer.split()[1])

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def next_frame(self) -> tuple[int, bytes]:
        """Return the next frame, pings too: first byte, payload. Raises EOFError at the end."""
        first, size = self._take(2)
        assert size < 128, "a server does not mask"
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first, self._take(size)

    def receive(self) -> tuple[int, bytes]:
        """Return the next frame that is no ping."""
        while True:
            first, data = self.next_frame()
            if first & 15 != PING:
                return first, data

    def text(self) -> str:
        """Return the next text message."""
        first, data = self.receive()
        assert first == 0x80 | TEXT, (first, data)
        return data.decode()

    def close_code(self) -> int | None:
        """Read to the end, answering a close; returns the code of the close frame, or None where none came."""
        code = None
        with contextlib.suppress(EOFError, OSError):
            while True:
                first, data = self.receive()
                if first & 15 == CLOSE:
                    code = struct.unpack("!H", data[:2])[0] if data else 1005
                    self.send(frame(CLOSE, data[:2]))
        return code

    def ended(self, seconds: float) -> float:
        """Wait for the end of the connection, reading nothing; returns after how many seconds it came."""
        start = time.monotonic()
        self.socket.settimeout(0.1)
        while time.monotonic() - start < seconds:
            try:
                self.socket.send(b"")
                state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            except OSError:
                break
            if state != 1:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"the connection stays for more than {seconds} s")
        return time.monotonic() - start

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def connect(server: Server, receive_buffer: int | None = None) -> socket.socket:
    """Connect a raw socket, with TLS where the server has it."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(15)
    connection.connect(("127.0.0.1", server.port))
    return ssl._create_unverified_context().wrap_socket(connection) if server.scheme else connection


def request(path: str, *headers: str, host: bool = True, version: str = "1.1") -> bytes:
    """Return an upgrade request."""
    lines = [
        f"GET {path} HTTP/{version}",
        *(["Host: test"] if host else []),
        "Upgrade: websocket",
        "Connection: Upgrade",
    ]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
