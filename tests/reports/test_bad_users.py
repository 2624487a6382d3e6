"""A user that a client made up, and that cannot be one, is refused: no 500, no traceback, nobody who comes for ever."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from helpers.hubs import receive, run, serving
from tidewire import BadRequest, Hub
from tidewire.links.uvicorn import WebSocketProtocol

SERVERS = [WebSocketProtocol, "websockets-sansio", "hypercorn"]


def application(hub: Hub) -> FastAPI:
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/{when}")
    async def endpoint(websocket: WebSocket, when: str, user: str) -> None:
        if when == "accepted":
            await websocket.accept()
        async with hub.connect(websocket, user=user) as connection:
            await connection.send_text(f"in as {connection.user}")
            await connection.wait_closed()

    return app


async def refusal(running: Any, path: str) -> tuple[int, str]:
    """Return the status of the handshake, or the close code, and the reason."""
    try:
        async with running.open(path) as client:
            while True:  # an accepted client is told in a message first
                await receive(client)
    except InvalidStatus as refused:
        return refused.response.status_code, (refused.response.body or b"").decode()
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


@pytest.mark.parametrize("ws", SERVERS)
def test_a_name_that_is_none_is_refused(ws: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`?user=a%00b` was 500, with a traceback for each try (FastAPI: "Internal Server Error" in handshakes)."""

    async def main() -> None:
        hub = Hub()
        async with serving(hub, application(hub), ws=ws) as running:
            for user, problem in (("a%00b", "NUL"), ("u" * 3500, "shorter"), ("u" * 1198, "shorter")):
                for when in ("connecting", "accepted"):
                    code, reason = await refusal(running, f"/{when}?user={user}")
                    assert code in (400, 1008)
                    assert problem in reason or code == 1008
            async with running.open("/connecting?user=J%C3%B6rg") as client:
                assert await receive(client) == "in as Jörg"

    run(main())
    assert "Traceback" not in caplog.text


def test_another_type_is_the_applications_mistake() -> None:
    async def main() -> None:
        hub, caught = Hub(), list[BadRequest]()
        app = FastAPI(lifespan=hub.lifespan)
        user: Any = 7

        @app.websocket("/")
        async def endpoint(websocket: WebSocket) -> None:
            try:
                hub.connect(websocket, user=user)
            except BadRequest as error:
                caught.append(error)
            await websocket.accept()
            await websocket.send_text("told")

        async with serving(hub, app) as running, running.open() as client:
            assert await receive(client) == "told"
            assert "user 7" in str(caught[0])

    run(main())
