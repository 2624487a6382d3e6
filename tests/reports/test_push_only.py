"""Endpoints that only push: they open at once, and end when their client goes (Kludex/starlette#1121, fastapi#3008)."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import WebSocket
from tests.links.test_server_exit import serving
from websockets.sync.client import connect

from contract.serving import until
from helpers.hubs import code_of, run
from helpers.hubs import serving as serving_hub
from tidewire import Hub
from tidewire.links.uvicorn import WebSocketProtocol

APPLICATION = """
import asyncio
from fastapi import FastAPI, WebSocket
from tidewire import Hub

hub = Hub("memory://", limits={"leaving_seconds": 0.5, "drain_seconds": 0.2})
app = FastAPI(lifespan=hub.lifespan)
seen = []

@app.get("/seen")
async def show():
    return seen

async def forever():
    await asyncio.sleep(3600)

@app.websocket("/{kind}")
async def push(websocket: WebSocket, kind: str):
    try:
        async with hub.connect(websocket) as connection:
            seen.append(kind)
            if kind == "sleep":
                await forever()
            elif kind == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(forever())
            elif kind == "push":
                while True:
                    await connection.send_json(len(seen))
                    await asyncio.sleep(0.1)
            elif kind == "late":
                await asyncio.sleep(0.2)
                seen.extend([text async for text in connection.iter_text()])
            elif kind == "read":
                async for text in connection.iter_text():
                    pass
                await asyncio.sleep(1)
                seen.append("all was read")
        seen.append(f"{kind} goes on")
    finally:
        seen.append(f"{kind} ended")
"""
KINDS = ("sleep", "group", "push", "late", "read")


@pytest.mark.parametrize("server", ["tidewire", "uvicorn", "hypercorn", "granian"])
def test_an_endpoint_that_only_pushes_ends_with_its_client(server: str, tmp_path: Path) -> None:
    """It opened after a second, and one that slept stayed for ever when its client had gone."""
    with serving(server, tmp_path, APPLICATION) as (process, port):

        def seen() -> list[str]:
            try:
                found: list[str] = httpx.get(f"http://127.0.0.1:{port}/seen").json()
            except httpx.TransportError:
                return []
            return ["", *found]

        until(seen, 20, what="the server answers")
        for kind in KINDS:
            with connect(f"ws://127.0.0.1:{port}/{kind}") as client:
                client.send("hello")
                until(lambda kind=kind: kind in seen(), what="it is inside")  # type: ignore[misc]
        until(lambda: all(f"{kind} ended" in seen() for kind in KINDS), 20, what="all have ended")
        assert all(f"{kind} goes on" in seen() for kind in KINDS), "the end of a client is no error"
        assert "hello" in seen(), "what a client sent before it left is handled"
        assert "all was read" in seen(), "an endpoint that reads is not cancelled"
        with connect(f"ws://127.0.0.1:{port}/sleep"):
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize("code", [None, 4000, 1012])
@pytest.mark.parametrize("ws", [WebSocketProtocol, "websockets-sansio"])
def test_the_code_behind_a_block_that_only_pushes_is_left_alone(ws: Any, code: int | None) -> None:
    """Its end counted as the client's: what came behind the block was cancelled 5 s later, with 1012 at once."""

    async def main() -> None:
        hub, ended = Hub(limits={"leaving_seconds": 0.01}), asyncio.get_running_loop().create_future()

        async def endpoint(websocket: WebSocket) -> None:
            try:
                async with hub.connect(websocket) as connection:
                    if code is not None:
                        await connection.close(code)
                await asyncio.sleep(0.05)
            finally:
                ended.set_result(asyncio.current_task().cancelling())  # type: ignore[union-attr]

        async with serving_hub(hub, endpoint, ws=ws) as running, running.open() as client:
            assert await code_of(client) == (code or 1000)
            assert await asyncio.wait_for(ended, 20) == 0

    run(main())
