"""Print the way of one message through our files: `python -m tests.helpers.tracing`, or `make trace`.

A server runs in this process with two WebSocket clients, a publisher and a subscriber. From the moment that the bytes
of one publication arrive until the bytes for the subscriber are written, every call of a function of ours is noted.
A crossing is a step of control from a function in one file to a function in another: a call, or the start or the
continuation of a task or a callback. Returns are not counted.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import uvicorn
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import ClientConnection, connect

import tidewire
from tidewire import Hub
from tidewire.links.uvicorn import WebSocketProtocol

__all__ = ("WAYS", "Trace", "trace")

SOURCE = str(Path(tidewire.__file__).parent) + "/"
#: What the publisher sends; the end of the way is known by it.
PAYLOAD = "a-message-that-is-traced"
#: How many messages are sent; the shortest way is shown: others met a timer on it.
ROUNDS = 6


@dataclass(slots=True)
class Trace:
    """The way of one message: each step is a file and a function in it, in the order of time."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    crossings: int = 0

    @property
    def files(self) -> list[str]:
        """The files on the way, in the order in which the message first comes to them."""
        return list(dict.fromkeys(file for file, _ in self.steps))

    def __str__(self) -> str:
        lines: list[str] = []
        previous = ""
        for file, function in self.steps:
            if file == previous:
                lines[-1] += f" {function}"
            else:
                lines.append(f"  {file:<38}{function}")
                previous = file
        return "\n".join([*lines, f"  {len(self.files)} files, {self.crossings} crossings"])


class _Recorder:
    """The profile function of all threads; it records between `arm` and the write that holds the payload."""

    def __init__(self) -> None:
        self.is_armed = False
        self.is_recording = False
        self.trace = Trace()
        self.done = threading.Event()
        self._started: set[int] = set()

    def arm(self) -> None:
        self.trace = Trace()
        self.done.clear()
        self._started.clear()
        self.is_armed = True

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or not (self.is_armed or self.is_recording):
            return
        code = frame.f_code
        if self.is_armed and code.co_name == "data_received" and code.co_filename.startswith(SOURCE):
            self.is_armed, self.is_recording = False, True
        if not self.is_recording:
            return
        if code.co_filename.startswith(SOURCE):
            self._step(frame, code)
        elif _is_the_last_write(frame):
            self.is_recording = False
            self.done.set()

    def _step(self, frame: FrameType, code: CodeType) -> None:
        file = code.co_filename.removeprefix(SOURCE)
        caller: FrameType | None = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(SOURCE):
            caller = caller.f_back
        before = ""
        if caller is not None:
            before = caller.f_code.co_filename.removeprefix(SOURCE)
        elif self.trace.steps:
            before = self.trace.steps[-1][0]
        self.trace.steps.append((file, code.co_name))
        if before and before != file:
            self.trace.crossings += 1


def _is_the_last_write(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_name != "write" or "selector_events" not in code.co_filename:
        return False
    return PAYLOAD.encode() in frame.f_locals["data"]


def _plain(url: str) -> FastAPI:
    hub = Hub(url)
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/{user}")
    async def chat(websocket: WebSocket, user: str) -> None:
        async with hub.connect(websocket, user=user) as connection:
            if user == "subscriber":
                await connection.subscribe("lobby")
                await connection.send_text("ready")
            async for text in connection.iter_text():
                await connection.publish("lobby", text)

    return app


def _centrifuge(url: str) -> FastAPI:
    hub = Hub(url)
    app = FastAPI(lifespan=hub.lifespan)

    @hub.channel("lobby")
    async def lobby(user: str) -> tidewire.Permissions:
        return tidewire.Permissions(subscribe=True, publish=True)

    app.include_router(hub.client_router(user=lambda: "ann"))
    return app


Opened = Callable[[str], Awaitable[tuple[ClientConnection, ClientConnection]]]


async def _open_plain(url: str) -> tuple[ClientConnection, ClientConnection]:
    subscriber = await connect(f"{url}/subscriber", proxy=None)
    assert await subscriber.recv() == "ready"
    return await connect(f"{url}/publisher", proxy=None), subscriber


async def _open_centrifuge(url: str) -> tuple[ClientConnection, ClientConnection]:
    clients: list[ClientConnection] = []
    for commands in (
        [{"id": 1, "connect": {}}],
        [{"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "lobby"}}],
    ):
        client = await connect(f"{url}/connection/websocket", proxy=None)
        for command in commands:
            await client.send(json.dumps(command))
            reply = json.loads(await client.recv())
            assert "error" not in reply, reply
        clients.append(client)
    return clients[0], clients[1]


@dataclass(frozen=True, slots=True)
class Way:
    """How one kind of message goes: its store, its application, how clients come in, and what the publisher sends."""

    store: str
    app: Callable[[str], FastAPI]
    open: Opened
    message: str


WAYS = {
    "plain": Way("memory://", _plain, _open_plain, PAYLOAD),
    "plain, SQLite": Way("sqlite:///{folder}/trace.db", _plain, _open_plain, PAYLOAD),
    "Centrifuge": Way(
        "memory://",
        _centrifuge,
        _open_centrifuge,
        json.dumps({"id": 9, "publish": {"channel": "lobby", "data": {"text": PAYLOAD}}}),
    ),
}


async def _send(way: Way, url: str, recorder: _Recorder) -> Trace:
    publisher, subscriber = await way.open(url)
    found: list[Trace] = []
    async with publisher, subscriber, asyncio.timeout(30):
        for _ in range(ROUNDS):
            recorder.arm()
            await publisher.send(way.message)
            while PAYLOAD not in str(await subscriber.recv()):
                pass
            await asyncio.to_thread(recorder.done.wait, 10)
            found.append(recorder.trace)
    return min(found, key=lambda trace: (trace.crossings, len(trace.steps)))


def trace(way: Way) -> Trace:
    """Serve one way in a thread of this process, send messages on it, and return the shortest trace."""
    recorder = _Recorder()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            way.app(way.store.format(folder=folder)), ws=WebSocketProtocol, loop="asyncio", log_level="warning"
        )
        server = uvicorn.Server(config)
        threading.setprofile(recorder)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            return asyncio.run(_send(way, f"ws://127.0.0.1:{listener.getsockname()[1]}", recorder))
        finally:
            server.should_exit = True
            thread.join()
            threading.setprofile(None)


def main(names: list[str]) -> None:
    """Print the ways of these names, or all."""
    for name in names or WAYS:
        print(f"{name}\n{trace(WAYS[name])}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
