"""Workers that are killed, and what they and a webhook's receiver were told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from contract.serving import free_port
from tidewire.client import Client

__all__ = ("Process", "Receiver", "logged")

HERE = Path(__file__).parent


class Receiver:
    """A server that refuses as long as it is told to, and checks signatures."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refusals = 0
        self.requests = itertools.count()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        signed = f"{headers['tidewire-timestamp']}.".encode() + body
        wanted = "v1=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()
        is_right = (
            headers["tidewire-signature"] == wanted and abs(time.time() - int(headers["tidewire-timestamp"])) < 60
        )
        if is_right and next(self.requests) % 2:  # half of all fail
            self.events += json.loads(body)["events"]
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            self.refusals += 1
            writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()


class Process:
    """A worker of the application, on a port of its own."""

    def __init__(self, folder: Path, store: str, webhook: str = "") -> None:
        self.folder, self.store, self.port, self.webhook = folder, store, free_port(), webhook
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        environment = os.environ | {"STORE": self.store, "LOG": str(self.folder / "log"), "PYTHONPATH": str(HERE)}
        environment["WEBHOOK"] = self.webhook
        command = [sys.executable, "-m", "tidewire", "run", "application:app", "--port", str(self.port)]
        end = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "out").read_text()[-2_000:]
            if self.process is None or self.process.poll() is not None:  # it ends where its store is too busy to answer
                with (self.folder / "out").open("ab") as out:
                    self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=self.folder)
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/connection/tidewire.js", timeout=1).close()
            return True
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stall(self) -> bool:
        """Stop it, so that nothing of it goes on; return whether it ran."""
        process = self.process
        if process is None or process.poll() is not None:
            return False
        process.send_signal(signal.SIGSTOP)
        return True

    def go_on(self) -> None:
        """Let it go on."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def client(self, name: str) -> Client:
        return Client(f"ws://127.0.0.1:{self.port}/connection/websocket?user={name}", seconds=30)


def logged(folder: Path) -> list[list[Any]]:
    path = folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
