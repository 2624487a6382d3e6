"""The link over any ASGI server, with a server of a few lines that takes what it is told to take."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tidewire.errors import Disconnect
from tidewire.limits import Limits
from tidewire.links import asgi
from tidewire.links.asgi import AsgiLink
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch
from tidewire.protocols.close_codes import GONE, INTERNAL_ERROR, SHUTDOWN, STALLED
from tidewire.testing import wait_until


def run(main: Coroutine[Any, Any, None]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(15):
            await main
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    asyncio.run(guarded())


class Server:
    """The two callables of an ASGI server, and a listener that remembers."""

    def __init__(self, **limits: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.answers_close = True
        self.error: Exception | None = None
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.told: list[Any] = []
        self.link = AsgiLink(self.inbox.get, self.send, Limits(**limits))
        self.link.listen(self)

    async def send(self, event: dict[str, Any]) -> None:
        await self.takes.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(event)
        if event["type"] == "websocket.close" and self.answers_close:
            self.inbox.put_nowait({"type": "websocket.disconnect", "code": event["code"], "reason": event["reason"]})

    def comes(self, message: str | bytes) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message})

    def message_received(self, message: str | bytes) -> None:
        if message == "raise":
            raise ValueError("a bug in the listener")
        self.told.append(message)

    def refuse(self, kind: str, why: str) -> None:
        self.told.append((kind, why))

    def shut_down(self) -> None:
        self.told.append("shut down")

    def drained(self) -> None:
        self.told.append("drained")

    def closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        self.told.append((disconnect, clean))

    def write(self, *messages: bytes, binary: bool = False) -> None:
        self.link.write(Batch([WireMessage(message, binary) for message in messages]))


def test_messages_go_both_ways_in_their_order() -> None:
    async def main() -> None:
        server = Server()
        server.comes("a")
        server.comes(b"b")
        server.inbox.put_nowait({"type": "websocket.receive", "text": None, "bytes": b"c"})
        server.write(b"1", b"2")
        server.write(b"\xff", binary=True)
        await wait_until(lambda: len(server.sent) == 3 and len(server.told) == 3)
        assert server.told == ["a", b"b", b"c"]
        assert [event.get("text", event.get("bytes")) for event in server.sent] == ["1", "2", b"\xff"]
        assert server.link.backlog() == (0, 0)
        server.link.close(4001, "bye")
        server.write(b"too late")
        await server.link.aclose()
        assert server.sent[-1] == {"type": "websocket.close", "code": 4001, "reason": "bye"}
        assert server.told[3:] == [(Disconnect(4001, "bye"), True)]

    run(main())


@pytest.mark.parametrize(("code", "clean"), [(1000, True), (1001, True), (1005, True), (1006, False), (None, True)])
def test_the_clients_end_is_told(code: int | None, clean: bool) -> None:
    async def main() -> None:
        server = Server()
        server.comes("last")
        server.inbox.put_nowait({"type": "websocket.disconnect", "code": code, "reason": None})
        await server.link.keep_open()
        assert server.told == ["last", (Disconnect(code or 1005, ""), clean)]
        server.write(b"too late")
        server.link.close(1000)
        assert (server.sent, server.link.backlog(), server.link.is_closed) == ([], (0, 0), True)

    run(main())


def test_our_own_reason_is_told_when_we_end_it() -> None:
    async def main() -> None:
        server = Server()
        server.link.close(SHUTDOWN.code, SHUTDOWN.reason)
        await server.link.aclose()
        assert server.told == [(Disconnect(SHUTDOWN.code, SHUTDOWN.reason), True)]

    run(main())


def test_a_close_comes_behind_what_is_queued() -> None:
    async def main() -> None:
        server = Server()
        server.takes.clear()
        server.write(b"1", b"2")
        server.link.close(1000, "é" * 100)
        await asyncio.sleep(0)
        server.takes.set()
        await server.link.aclose()
        assert [event["type"] for event in server.sent] == ["websocket.send", "websocket.send", "websocket.close"]
        assert server.sent[-1]["reason"] == "é" * 61

    run(main())


@pytest.mark.parametrize("takes", [True, False])
def test_a_peer_that_does_not_answer_our_close_is_given_up(takes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "CLOSE_SECONDS", 0.05)

    async def main() -> None:
        server = Server()
        server.answers_close = False
        if not takes:
            server.takes.clear()
            server.write(b"queued")
        server.link.close(4000, "")
        await server.link.aclose()
        assert server.told == [(Disconnect(4000, ""), False)]

    run(main())


def test_a_link_pauses_and_drains() -> None:
    async def main() -> None:
        server = Server()
        server.takes.clear()
        server.write(b"x" * 60_000)
        assert not server.link.paused
        server.write(b"x" * 60_000)
        assert server.link.paused
        assert server.link.backlog() == (120_000, 2)
        waiting = asyncio.create_task(server.link.wait_drained())
        server.comes("read only when something is taken")
        await asyncio.sleep(0.02)
        assert not waiting.done()
        server.comes("second")
        server.takes.set()
        await waiting
        await wait_until(lambda: len(server.told) == 3)
        assert "drained" in server.told
        server.link.abort()
        await server.link.aclose()

    run(main())


def test_nobody_can_ask_for_more_than_they_take() -> None:
    async def main() -> None:
        server = Server()
        server.takes.clear()
        server.write(b"x" * 70_000)
        for number in range(50):
            server.comes(str(number))
        await asyncio.sleep(0.02)
        assert len(server.told) <= 1, "reading pauses with writing"
        server.takes.set()
        await wait_until(lambda: len(server.told) == 51)
        server.link.abort()
        await server.link.aclose()

    run(main())


def test_reading_pauses_on_demand() -> None:
    async def main() -> None:
        server = Server()
        server.link.pause_reading()
        for text in ("a", "b", "c"):
            server.comes(text)
        await asyncio.sleep(0.02)
        assert len(server.told) <= 1
        server.link.resume_reading()
        await wait_until(lambda: server.told == ["a", "b", "c"])
        server.link.pause_reading()
        server.link.abort()
        await server.link.aclose()

    run(main())


def test_a_peer_that_takes_nothing_is_cut_in_time() -> None:
    async def main() -> None:
        server = Server(stalled_seconds=0.05)
        server.takes.clear()
        server.write(b"1")
        await server.link.keep_open()
        assert server.told == [(STALLED, False)]
        assert server.link.is_closed
        await server.link.wait_drained()

    run(main())


def test_a_send_that_fails_ends_the_link() -> None:
    async def main() -> None:
        server = Server()
        server.error = OSError("gone")
        server.write(b"1")
        await server.link.keep_open()
        assert server.told == [(GONE, False)]

    run(main())


def test_a_bug_in_a_listener_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = Server()
        server.comes("raise")
        await server.link.keep_open()
        assert server.sent[-1]["code"] == INTERNAL_ERROR.code

    run(main())
    assert "a bug in the listener" in caplog.text


@pytest.mark.parametrize("moment", ["drained", "closed"])
def test_a_bug_in_what_a_listener_does_then_is_logged(
    moment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ValueError(f"a bug in {moment}")

    async def main() -> None:
        monkeypatch.setattr(Server, moment, fail)
        server = Server()
        server.takes.clear()
        server.write(b"x" * 100_000)
        server.takes.set()
        await server.link.wait_drained()
        server.link.close(1000)
        await server.link.keep_open()

    run(main())
    assert f"a bug in {moment}" in caplog.text


def test_a_cancelled_end_aborts() -> None:
    async def main() -> None:
        server = Server()
        server.answers_close = False
        server.link.close(1000)
        ending = asyncio.create_task(server.link.aclose())
        await asyncio.sleep(0.01)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert server.told == [(Disconnect(1000, ""), False)]

    run(main())
