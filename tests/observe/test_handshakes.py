"""What is refused at the link is counted, once, by reason: handshakes by an application's dependencies, and limits."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketException
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus

from helpers.hubs import code_of, run, serving
from tidewire import Hub
from tidewire.limits import Limits
from tidewire.links.uvicorn import WebSocketProtocol, configured
from tidewire.support.refusals import Refusal, Refusals, note_refusal

TOKENS = {"wrong": HTTPException(401, "the token is wrong"), "late": WebSocketException(1008, "the token is late")}


def by_token(connection: HTTPConnection) -> str:
    error = TOKENS.get(connection.query_params.get("token", ""))
    if error is not None:
        raise error
    return "ann"


async def refused(served: Any, path: str) -> int:
    with pytest.raises(InvalidStatus) as raised:
        async with served.open(path):
            pass
    return raised.value.response.status_code


def application(limits: dict[str, float] | None = None) -> tuple[Hub, FastAPI]:
    hub = Hub(limits=limits)
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=by_token))
    app.include_router(hub.protocol_router("/native", user=by_token))

    @app.websocket("/own")
    async def own(websocket: WebSocket, user: str = Depends(by_token)) -> None:
        async with hub.connect(websocket, user=user) as connection:
            await connection.wait_closed()

    @app.websocket("/number/{number}")
    async def number(websocket: WebSocket, number: int) -> None:
        await websocket.accept()

    return hub, app


def noted() -> list[Refusal]:
    refusals = Refusals.of(asyncio.get_running_loop())
    assert refusals.counts.total() == len(refusals.latest)
    found = list(refusals.latest)
    refusals.latest.clear()
    refusals.counts.clear()
    return found


def test_each_refusal_of_a_dependency_is_counted_once() -> None:
    hub, app = application()

    async def main() -> None:
        async with serving(hub, app) as served:
            for path in ("/own", "/native", "/connection/websocket"):
                assert await refused(served, f"{path}?token=wrong") == 401
                (one,) = noted()
                assert (one.kind, one.address) == ("handshake_401", "127.0.0.1")
                assert "the token is wrong" in one.why
                assert await refused(served, f"{path}?token=late") == 403
                (one,) = noted()
                assert one.kind == "handshake_403"
                assert "1008 the token is late" in one.why
            assert await refused(served, "/number/none") == 403
            assert await refused(served, "/nowhere") == 404
            found = noted()
            assert [one.kind for one in found] == ["handshake_403", "handshake_404"]
            assert found[1].why == "the application refuses with 404: code 1000"
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
                answer = await client.post("/connection/http_stream?token=wrong", content=b"{}")
            assert answer.status_code == 401
            assert [one.kind for one in noted()] == ["handshake_401"]

    run(main())


def test_what_the_hub_refuses_is_not_counted_again_as_an_answer_of_the_application() -> None:
    hub, app = application({"connections": 1})

    async def main() -> None:
        async with serving(hub, app) as served:
            with pytest.raises(InvalidStatus):
                await served.open("/own", origin="https://evil.example")
            assert [one.kind for one in noted()] == ["origin"]
            async with served.open("/own"):
                assert await refused(served, "/own") == 503
            assert [one.kind for one in noted()] == ["connections"]
            assert await refused(served, "/socket.io/?EIO=4") in (403, 404)
            assert [one.kind for one in noted()] == ["foreign_client"]

    run(main())


@pytest.mark.parametrize("server", ["websockets-sansio", "hypercorn"])
def test_routers_of_the_hub_count_under_other_servers(server: str) -> None:
    hub, app = application()

    async def main() -> None:
        async with serving(hub, app, ws=server) as served:
            for path in ("/native", "/connection/websocket"):
                assert await refused(served, f"{path}?token=wrong") == 401
                assert [one.kind for one in noted()] == ["handshake_401"]
                assert await refused(served, f"{path}?token=late") == 403
                assert [one.kind for one in noted()] == ["handshake_403"]

    run(main())


@pytest.mark.parametrize(
    "ws", [configured(Limits(message_size=1_000)), WebSocketProtocol, "websockets-sansio"], ids=["link", "hub", "other"]
)
def test_a_message_that_is_too_large_is_a_refusal(ws: Any) -> None:
    hub, app = application({"message_size": 1_000})

    async def main() -> None:
        async with serving(hub, app, ws=ws) as served, served.open("/native") as client:
            await client.send("x" * 2_000)
            assert await code_of(client) == 1009
            (one,) = noted()
            assert (one.kind, one.user, one.address) == ("message_size", "ann", "127.0.0.1")
            assert one.connection

    run(main())


def test_a_text_that_is_cut_ends_with_dots() -> None:
    async def main() -> None:
        note_refusal("bad_request", "x" * 300, user="y" * 200, channel="z" * 201)
        (one,) = noted()
        assert (one.why, one.user, one.channel) == ("x" * 199 + "…", "y" * 200, "z" * 199 + "…")

    run(main())


def test_control_frames_over_the_rate_are_a_refusal_and_a_missing_pong_is_none() -> None:
    hub, app = application()
    ws = configured(Limits(rate=1, burst=5, pong_seconds=0.3, ping_seconds=0.3))

    async def main() -> None:
        async with serving(hub, app, ws=ws) as served:
            async with served.open("/native") as client:
                for _ in range(50):
                    await client.ping()
                assert await code_of(client) == 1008
                assert [(one.kind, one.why, one.user) for one in noted()] == [
                    ("rate", "too many control frames", "ann")
                ]
            reader, writer = await silent(served.port)
            async with asyncio.timeout(15):
                await reader.read()
            writer.close()
            assert noted() == []

    run(main())


async def silent(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket whose client answers no ping; what it has not read yet is the first ping or later."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /native HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{head}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer
