"""A small client of the chat dialect, on the plain `websockets` client."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from .serving import Server

__all__ = ("ANY_WORKER", "Chat", "Message", "open_socket", "said")

Message = dict[str, Any]
#: Whichever worker takes the connection.
ANY_WORKER = 0


async def open_socket(server: Server, path: str, *, worker: int | None = None, **options: Any) -> ClientConnection:
    """Open a WebSocket, on one worker if it matters."""
    options.setdefault("compression", None)
    options.setdefault("max_size", None)
    options.setdefault("max_queue", None)  # a full one would stop reading, and with it the closing handshake
    options.setdefault("proxy", None)
    options.setdefault("close_timeout", 5)
    if worker:
        options["sock"] = await asyncio.to_thread(server.dial, worker)
    return await connect(server.url(path), **options)


class Chat:
    """One client in the chat. Everything that it was sent is in `seen`, in order.

    Where the server has several workers, clients are given to them in turn, unless a worker or ANY_WORKER is named.
    """

    def __init__(self, server: Server, token: str, *, worker: int | None = None, path: str = "/ws/auth", **query: Any):
        self._server = server
        self._token = token
        self._worker = worker
        self._path = f"{path}?{urlencode(query)}" if query else path
        self.room: str = query.get("room", "lobby")
        self._options: dict[str, Any] = {}
        self.seen: list[Message] = []
        self.position = 0
        self.epoch = ""

    async def __aenter__(self) -> Chat:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.socket.close()

    async def open(self) -> None:
        """Connect, and authenticate by header."""
        headers = {"Authorization": f"Bearer {self._token}"}
        worker = self._server.next_worker() if self._worker is None else self._worker
        self.socket = await open_socket(self._server, self._path, worker=worker, additional_headers=headers)

    async def joined(self) -> Message:
        """Wait until the first room is joined, and return its history message."""
        history = await self.expect("history")
        await self.expect("online")
        return history

    # What it sends.

    async def send(self, type_: str, **fields: Any) -> None:
        """Send one message of the dialect."""
        await self.socket.send(json.dumps({"type": type_, **fields}))

    async def say(self, message: str, **fields: Any) -> None:
        """Say something, in the first room unless another is named."""
        if self.room != "lobby":
            fields.setdefault("room", self.room)
        await self.send("chat", message=message, **fields)

    async def who(self) -> list[str]:
        """Ask who is in the first room."""
        await self.send("online", room=self.room)
        users: list[str] = (await self.expect("online"))["users"]
        return users

    # What it is sent.

    async def receive(self, within: float = 10.0) -> Message:
        """Return the next message."""
        async with asyncio.timeout(within):
            message: Message = json.loads(await self.socket.recv())
        self.seen.append(message)
        self._follow(message)
        return message

    def _follow(self, message: Message) -> None:
        if message["type"] == "history":
            self.epoch = message["epoch"]
            for said_before in message["messages"]:
                self.position = said_before["offset"]
        elif message["type"] == "chat_message":
            self.position = message["offset"]

    async def expect(self, type_: str, within: float = 10.0, **fields: Any) -> Message:
        """Return the next message of this type with these fields; what comes before it is passed over."""
        try:
            async with asyncio.timeout(within):
                while True:
                    message = await self.receive(within)
                    if message["type"] == type_ and fields.items() <= message.items():
                        return message
        except (TimeoutError, ConnectionClosed) as error:
            raise AssertionError(f"no {type_} {fields} but {error!r}; seen last: {self.seen[-5:]}") from error

    async def settle(self) -> list[Message]:
        """Return what the server sent before its answer to a ping sent now."""
        start = len(self.seen)
        await self.send("ping")
        await self.expect("pong")
        return self.seen[start:-1]

    async def closed(self, within: float = 10.0) -> tuple[int, str]:
        """Read until the connection ends, and return its close code and reason."""
        try:
            async with asyncio.timeout(within):
                while True:
                    await self.receive(within)
        except ConnectionClosed as error:
            if error.rcvd is None:
                return 1006, ""
            return error.rcvd.code, error.rcvd.reason

    def all(self, type_: str) -> list[Message]:
        """Return what was seen of one type."""
        return [message for message in self.seen if message["type"] == type_]


def said(messages: list[Message]) -> list[str]:
    """Return the contents of chat messages, in order."""
    return [message["content"] for message in messages if message["type"].endswith("chat_message")]
