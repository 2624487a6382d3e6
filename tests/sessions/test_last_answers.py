"""A request that ends its endpoint's block is answered in its protocol; the close after that has the reason."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, WebSocket

from engine.support import run
from sessions.test_application import Peer
from tidewire import RECOVERABLE, Hub
from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, CommandError, LimitExceeded, NotAvailable
from tidewire.protocols.close_codes import close_reason, may_return
from tidewire.protocols.plain import PLAIN
from tidewire.sessions.accept import Acceptance
from tidewire.sessions.origins import Origins
from tidewire.testing import HandshakeRefused, Realtime

TOO_LONG = "channel name of 305 characters is longer than the limit of 255; shorten it"
ANSWERS: dict[str, tuple[Any, Any]] = {
    "plain": (PLAIN, f"error: {TOO_LONG}"),
    "recoverable": (RECOVERABLE, {"error": "bad_request", "detail": ...}),
}


def rooms(protocol: Any) -> FastAPI:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/ws/{room}/{user}")
    async def room(websocket: WebSocket, room: str, user: str) -> None:
        async with hub.connect(websocket, user=user, protocol=protocol) as connection:
            if room == "absent":
                await connection.set_presence("room:1", {})
            if room == "limit":
                raise LimitExceeded("rooms: the limit is 3")
            await connection.subscribe(f"room:{room}")

    return app


@pytest.mark.parametrize("protocol", ANSWERS)
def test_a_room_with_too_long_a_name_is_answered_before_the_close(realtime: Realtime, protocol: str) -> None:
    spoken, answer = ANSWERS[protocol]
    with realtime(rooms(spoken)) as rt:
        ann = rt.connect(f"/ws/{'x' * 300}/ann")
        ann.expect(answer)
        disconnect = ann.expect_closed(1008)
        assert disconnect.reason == TOO_LONG
        assert not disconnect.reconnect
        ann.expect_nothing()


def test_other_errors_of_a_command_are_answered_too(realtime: Realtime) -> None:
    with realtime(rooms(RECOVERABLE)) as rt:
        ann = rt.connect("/ws/absent/ann")
        ann.expect({"error": "not_available", "detail": ...})
        disconnect = ann.expect_closed(1008)
        assert "is not present" in disconnect.reason
        bob = rt.connect("/ws/limit/bob")
        bob.expect({"error": "limit_exceeded", "detail": "rooms: the limit is 3"})
        disconnect = bob.expect_closed(1013)
        assert (disconnect.reason, disconnect.reconnect) == ("rooms: the limit is 3", True)


def test_a_user_with_too_long_a_name_is_told_where_its_client_can_read_it(realtime: Realtime) -> None:
    with realtime(rooms(RECOVERABLE)) as rt:
        with pytest.raises(HandshakeRefused, match=r"the limit is [0-9]+") as refused:
            rt.connect(f"/ws/1/{'u' * 5_000}")
        assert refused.value.status == 400
        page = rt.connect(f"/ws/1/{'u' * 5_000}", headers={"Origin": "http://testserver"})
        page.expect({"error": "bad_request", "detail": ...})
        disconnect = page.expect_closed(1008)
        assert "write a shorter one" in disconnect.reason
        assert not disconnect.reconnect


@pytest.mark.parametrize("error", [BadRequest("a" * 50 + "é" * 80), NotAvailable("no")], ids=["long", "short"])
def test_any_asgi_server_is_given_the_answer_before_the_close(error: CommandError) -> None:
    async def main() -> None:
        node = Node(MemoryBroker(), MemoryPresence())
        await node.start()
        peer = Peer()
        with pytest.raises(Exception) as raised:
            async with Acceptance(node, peer.websocket, user="", protocol=PLAIN, origins=Origins()):
                raise error
        assert raised.value.code == 1008  # type: ignore[attr-defined]
        assert raised.value.reason == close_reason(str(error))  # type: ignore[attr-defined]
        assert len(close_reason(str(error)).encode()) <= 123
        accepted, answer, close = peer.sent
        assert (accepted["type"], answer["text"]) == ("websocket.accept", f"error: {error}")
        assert (close["type"], close["code"]) == ("websocket.close", 1008)
        await node.aclose()

    run(main())


@pytest.mark.parametrize(("code", "expected"), [(1008, False), (1011, True), (4010, True), (4503, False)])
def test_codes_say_whether_to_come_back(code: int, expected: bool) -> None:
    assert may_return(code) is expected
