"""The ASGI side of a WebSocket: which messages of the application are written at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from tidewire.links.asgi_application import AsgiApplication


class Side:
    """The handshake and the connection of one application: remembers what is sent."""

    paused = False

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []

    def accept(self, headers: Iterable[tuple[bytes, bytes]], subprotocol: str | None) -> None:
        return

    def deny(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        raise AssertionError("nothing is denied here")

    async def wait_drained(self) -> None:
        return

    def send_message(self, data: bytes, *, binary: bool, is_last: bool) -> None:
        self.sent.append((data, is_last))

    def flush(self) -> None:
        return

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return

    def close(self, code: int, reason: str = "") -> None:
        return

    def application_returned(self, *, failed: bool) -> None:
        assert not failed


def test_the_answer_to_all_that_came_is_written_at_once_and_more_of_it_is_joined() -> None:
    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "unasked"})
        while (event := await receive())["type"] == "websocket.receive":
            for word in event["text"].split():
                await send({"type": "websocket.send", "text": word})

    async def main() -> None:
        side = Side()
        asgi = AsgiApplication(side, side, 1_000, asyncio.get_running_loop())
        call = asgi.start(application, {"type": "websocket"})
        for messages in ((), ("a",), ("b", "c"), ("d e f",)):
            await asyncio.sleep(0)
            for message in messages:
                asgi.put(message)
            await asyncio.sleep(0)
        asgi.disconnected(1000, "")
        await call
        assert side.sent == [
            (b"unasked", False),
            (b"a", True),
            (b"b", False),  # what answers the next message comes in the same turn
            (b"c", True),
            (b"d", True),
            (b"e", False),
            (b"f", False),
        ]

    asyncio.run(main())


def test_a_task_that_no_longer_waits_for_a_message_takes_none_from_another() -> None:
    async def application(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        first, second = (asyncio.create_task(receive()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        third = asyncio.create_task(receive())  # before the first has ended
        for task in (second, third):
            await send({"type": "websocket.send", "text": (await task)["text"]})
        assert first.cancelled()

    async def main() -> None:
        side = Side()
        asgi = AsgiApplication(side, side, 1_000, asyncio.get_running_loop())
        call = asgi.start(application, {"type": "websocket"})
        for message in ("", "a", "b"):
            for _ in range(5):
                await asyncio.sleep(0)
            if message:
                asgi.put(message)
        async with asyncio.timeout(20):
            await call
        assert sorted(data for data, _ in side.sent) == [b"a", b"b"]

    asyncio.run(main())
