"""The published SDKs as processes that tests tell what to do; their packages stay outside of the tree."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.serving import until
from helpers.node_packages import node_modules
from requirements import require

__all__ = ("KINDS", "Sdk", "driving", "driving_all")

HERE = Path(__file__).parent
#: A client, its transport and its encoding.
KINDS = (
    "js-websocket-json",
    "js-websocket-protobuf",
    "js-http_stream-json",
    "js-http_stream-protobuf",
    "js-sse-json",
    "python-websocket-json",
    "python-websocket-protobuf",
)


class Sdk:
    """One client in a process of its own."""

    def __init__(self, kind: str, port: int) -> None:
        language, transport, protocol = kind.split("-")
        base = f"127.0.0.1:{port}"
        if language == "js":
            require(shutil.which("node"), "apt-get install nodejs")
            command = ["node", str(HERE / "drive.mjs"), str(node_modules(HERE)), transport, protocol, base]
        else:
            require(any(importlib.metadata.distributions(name="centrifuge-python")), "pip install centrifuge-python")
            command = [sys.executable, str(HERE / "drive.py"), protocol, base]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        #: What it has said that no test has looked at yet; questions for tokens and joins stand apart.
        self.events: deque[dict[str, Any]] = deque()
        self.joins: list[str] = []
        self.asked: list[str] = []
        #: What answers a question for a token, by the channel.
        self.tokens: dict[str, Any] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "token":
                self.asked.append(event["channel"])
                with contextlib.suppress(BrokenPipeError, ValueError):
                    self._write({"token": self.tokens[event["channel"]]()})
            elif event["event"] == "join":
                self.joins.append(event["user"])
            else:
                self.events.append(event)

    def _write(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def do(self, verb: str, **parameters: Any) -> None:
        """Tell it to do something."""
        self._write({"do": verb, **parameters})

    def next(self, *wanted: str) -> dict[str, Any]:
        """Return the next event of these kinds; what else comes before is passed over."""

        def found() -> dict[str, Any] | None:
            while self.events:
                event = self.events.popleft()
                if event["event"] in wanted:
                    return event
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            return None

        event = until(found, 25.0, what=f"{wanted} comes")
        assert event is not None
        return event

    def ask(self, verb: str, **parameters: Any) -> Any:
        """Call something; returns the result, or the error's code as `("error", code)`."""
        self.do(verb, **parameters)

        def answered() -> dict[str, Any] | None:
            for event in tuple(self.events):
                if event["event"] in ("result", "error"):
                    self.events.remove(event)
                    return event
            return None

        event = until(answered, 15.0, what=f"an answer to {verb}")
        assert event is not None
        return event["value"] if event["event"] == "result" else ("error", event["code"])

    def subscribe(self, channel: str, **options: Any) -> dict[str, Any]:
        """Subscribe, and return what it says of that."""
        self.do("subscribe", channel=channel, **options)
        return self.next("subscribed")

    def data(self, count: int) -> list[Any]:
        """Return the data of the next publications."""
        return [self.next("publication")["data"] for _ in range(count)]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@contextlib.contextmanager
def driving_all(port: int) -> Iterator[dict[str, Sdk]]:
    """Run every SDK for as long as the block lasts: what takes its time is waited for once."""
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(driving(kind, port)) for kind in KINDS}


@contextlib.contextmanager
def driving(kind: str, port: int) -> Iterator[Sdk]:
    """Run an SDK for as long as the block lasts."""
    sdk = Sdk(kind, port)
    try:
        yield sdk
    finally:
        sdk.close()
