"""An application with rates; as a process of its own its store and its rate come from the environment."""

from __future__ import annotations

import os
from typing import Any

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from tidewire import Hub
from tidewire.protocols.json import JSON


async def user(connection: HTTPConnection) -> str:
    return connection.query_params.get("user", "")


def application(hub: Hub, rate: str) -> FastAPI:
    limit = hub.rate("2/h burst 3 per user", name="say")
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=user))
    app.include_router(hub.protocol_router("/json/{channel}", JSON, user=user))

    @hub.channel("room:{room}", rate=rate, history=10_000)
    async def room(room: str) -> bool:
        return True

    @hub.channel("said:{room}", rate=limit)
    async def said(room: str) -> bool:
        return True

    @hub.rpc("say", rate=limit)
    async def say(data: Any) -> Any:
        return data

    @app.post("/say", dependencies=[Depends(limit.route(user=user))])
    async def route() -> str:
        return "said"

    @app.post(
        "/open/{room}", dependencies=[Depends(hub.rate("1/h burst 1 per address per channel").route(channel="room"))]
    )
    async def open_route(room: str) -> str:
        return room

    return app


app = application(Hub(os.environ["STORE"]), os.environ["RATE"]) if "STORE" in os.environ else None
