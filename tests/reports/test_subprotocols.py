"""Subprotocols that a client has not asked for."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import WebSocket

from helpers.hubs import receive, run, serving
from tidewire import Hub
from tidewire.links.uvicorn import WebSocketProtocol


@pytest.mark.parametrize(
    "ws", [WebSocketProtocol, "websockets-sansio", "hypercorn"], ids=["tidewire", "uvicorn", "hypercorn"]
)
def test_a_subprotocol_is_chosen_from_those_that_are_asked_for(ws: Any) -> None:
    """A client without subprotocols failed, one with others too (jrief/django-websocket-redis#151)."""

    async def main() -> None:
        hub = Hub()

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket, subprotocol="ours") as connection:
                await connection.send_text("in")
                await connection.wait_closed()

        async with serving(hub, endpoint, ws=ws) as app:
            for asked, chosen in ((None, None), (["theirs"], None), (["theirs", "ours"], "ours")):
                async with app.open(subprotocols=asked) as client:
                    assert await receive(client) == "in"
                    assert client.subprotocol == chosen

    run(main())
