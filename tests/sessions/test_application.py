"""What a WebSocket meets before and around its endpoint: origins, limits, and the end of its block."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException, WebSocketException
from starlette.websockets import WebSocket

from engine.support import run
from helpers.hubs import code_of, serving
from tidewire import Hub
from tidewire.backends.base import JoinResult
from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.backends.sqlite import SqliteBroker, SqlitePresence
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, CutOff, NotPublished, StateFailed, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Announcement, Member, Position
from tidewire.protocols.close_codes import NORMAL, SLOW
from tidewire.protocols.plain import PLAIN
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.application import HubConnection
from tidewire.sessions.origins import Origins
from tidewire.testing import FakeLink, wait_until


class Peer:
    """A WebSocket of an ASGI server, up to its connect event."""

    def __init__(self, *headers: tuple[str, str], address: str = "192.0.2.1") -> None:
        self.sent: list[dict[str, Any]] = []
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        fields = [(name.encode(), value.encode()) for name, value in (("host", "example.org"), *headers)]
        scope = {
            "type": "websocket",
            "headers": fields,
            "client": (address, 1),
            "path": "/",
            "extensions": {"websocket.http.response": {}},
        }
        self.websocket = WebSocket(scope, self._events.get, self._send)

    def comes(self, text: str) -> None:
        self._events.put_nowait({"type": "websocket.receive", "text": text})

    async def _send(self, event: Any) -> None:
        self.sent.append(event)
        if event["type"] == "websocket.close":
            self._events.put_nowait({"type": "websocket.disconnect", "code": event["code"], "reason": ""})


@pytest.mark.parametrize(
    ("told", "is_let_in"),
    [
        (["https://example.org"], True),
        (["https://friend.example:8443"], True),
        (["https://friend.example"], False),
        (["https://evil.example"], False),
        (["null"], False),
        (["https://example.org.evil.example"], False),
        (["http://[evil"], False),
        (["https://example.org", "https://evil.example"], False),
        (["https://example.org", "https://example.org"], False),
    ],
)
def test_only_one_origin_that_is_allowed_is_let_in(told: list[str], is_let_in: bool) -> None:
    async def main() -> None:
        node = Node(MemoryBroker(), MemoryPresence())
        await node.start()
        peer = Peer(*[("origin", origin) for origin in told])
        options: dict[str, Any] = {"protocol": PLAIN, "user": ""}
        origins = Origins(["https://friend.example:8443"])
        entering = Acceptance(node, peer.websocket, origins=origins, **options)
        if is_let_in:
            async with entering:
                pass
            assert peer.sent[0]["type"] == "websocket.accept"
        else:
            with pytest.raises(HTTPException) as caught:
                await entering.__aenter__()
            assert caught.value.status_code == 403
        await node.aclose()

    run(main())


class SlowPresence(MemoryPresence):
    """Answers a join when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        await self.go.wait()
        return await super().join(channel, member, announcement)


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
def test_who_is_attached_and_waits_for_the_store_is_counted_once(limit: str) -> None:
    async def main() -> None:
        presence = SlowPresence()
        node = Node(MemoryBroker(), presence, limits=Limits(**{limit: 2}))
        await node.start()
        tasks = []
        for number in range(2):
            websocket = Peer().websocket
            acceptance = Acceptance(node, websocket, user=f"u{number}", protocol=PLAIN, origins=Origins())
            tasks.append(asyncio.ensure_future(acceptance.__aenter__()))
            await wait_until(lambda number=number: len(node.registry.connections) == number + 1)
        presence.go.set()
        for connection in await asyncio.gather(*tasks):
            connection.link.abort()
            await connection.link.keep_open()
        assert not node.registry.counts.own
        await node.aclose()

    run(main())


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("no disk here"),
        NotPublished("no room here"),
        StateFailed("no state here"),
        CutOff("a", SLOW, Position(1, "e")),
    ],
)
def test_an_outage_of_the_store_is_no_bug_of_the_handler(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        node = Node(MemoryBroker(), MemoryPresence())
        await node.start()
        peer = Peer()
        with pytest.raises(WebSocketException) as caught:
            async with Acceptance(node, peer.websocket, user="", protocol=PLAIN, origins=Origins()):
                raise error
        assert caught.value.__cause__ is error
        assert peer.sent[-1]["code"] == 1013
        await node.aclose()

    with caplog.at_level(logging.WARNING):
        run(main())
    # the first connection of a process may get a line about its server
    found = [record.levelname for record in caplog.records if record.module != "server_pings"]
    assert found == ["WARNING"]
    assert str(error) in caplog.text


def test_connections_of_one_user_that_come_at_once_do_not_pass_the_limit_together(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "store.db"
        limits = Limits(connections_per_user=3)
        node = Node(SqliteBroker(path, limits), SqlitePresence(path), limits=limits)
        await node.start()
        peers = [Peer() for _ in range(12)]
        options: dict[str, Any] = {"user": "ann", "protocol": PLAIN, "origins": Origins()}
        acceptances = [Acceptance(node, peer.websocket, **options) for peer in peers]
        connections = await asyncio.gather(*[acceptance.__aenter__() for acceptance in acceptances])
        assert sum(not connection.is_closed for connection in connections) == 3
        for connection in connections:
            connection.end(NORMAL)
            await connection.link.keep_open()
        assert [peer.sent[-1]["code"] for peer in peers].count(1013) == 9
        assert node.statistics().limits_reached == {"connections_per_user": 9}
        await node.aclose()

    run(main())


def test_json_has_the_depth_of_the_limits() -> None:
    async def main() -> None:
        node = Node(MemoryBroker(), MemoryPresence(), limits=Limits(json_depth=2))
        await node.start()
        peer = Peer()
        acceptance = Acceptance(node, peer.websocket, user="", protocol=PLAIN, origins=Origins())
        async with HubConnection(node, acceptance) as connection:
            for text in ("[[[1]]]", "[[[2]]]", "[[3]]"):
                peer.comes(text)
            with pytest.raises(BadRequest, match="deeper than the limit of 2"):
                await connection.receive_json()
            assert await anext(connection.iter_json()) == [[3]]
        assert "deeper than the limit of 2" in peer.sent[1]["text"]
        await node.aclose()

    run(main())


class FlushedLink(FakeLink):
    """Notes after how many messages the endpoint wanted them to be written at once."""

    __slots__ = ("flushed",)

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[int] = []

    def flush(self) -> None:
        self.flushed.append(len(self.sent))


def test_what_was_sent_goes_out_when_the_endpoint_waits_unless_a_push_takes_it_along() -> None:
    async def main() -> None:
        node = Node(MemoryBroker(), MemoryPresence())
        await node.start()
        peer, link = Peer(), FlushedLink()
        peer.websocket.scope["extensions"]["tidewire.link"] = link
        acceptance = Acceptance(node, peer.websocket, user="", protocol=PLAIN, origins=Origins())
        async with HubConnection(node, acceptance) as connection:
            await connection.subscribe("room")
            waiting = asyncio.ensure_future(connection.receive_text())
            await wait_until(lambda: link.flushed == [0])
            link.receive("echo")
            await connection.send_text(await waiting)
            waiting = asyncio.ensure_future(connection.receive_text())
            await wait_until(lambda: link.flushed == [0, 1])
            link.receive("chat")
            await connection.send_text("you wrote")
            await connection.publish("room", await waiting)
            asyncio.get_running_loop().call_later(0.01, link.receive, "bye")
            assert await connection.receive_text() == "bye"
            assert (link.data, link.flushed) == ([b"echo", b"you wrote", b"chat"], [0, 1])
        await node.aclose()

    run(main())


def test_a_block_that_waits_for_a_cancelled_task_has_failed() -> None:
    """It is no server that stops: its client is not told to be back at once, as 1012 does."""

    async def main() -> None:
        hub = Hub()

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket):
                other = asyncio.ensure_future(asyncio.sleep(60))
                other.cancel()
                await other

        async with serving(hub, endpoint) as running, running.open() as client:
            assert await code_of(client) == 1011

    run(main())
