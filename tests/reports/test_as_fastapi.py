"""Routes and models behave as FastAPI's own (issues of FastAPI: dependencies of routers for WebSockets, aliases)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket, WebSocketException
from pydantic import BaseModel, Field
from websockets.exceptions import InvalidStatus

from helpers.hubs import receive, run, serving
from tidewire import Hub
from tidewire.protocols.json import JSON
from tidewire.protocols.payload import encode_json


def closed() -> None:
    """Refuse everybody."""
    raise WebSocketException(1008, "closed")


@pytest.mark.parametrize("where", ["application", "router", "include"])
def test_a_protocol_route_obeys_dependencies_and_prefix(where: str) -> None:
    async def main() -> None:
        hub = Hub()
        nobody = [Depends(closed)]
        app = FastAPI(lifespan=hub.lifespan, dependencies=nobody if where == "application" else [])
        router = APIRouter(prefix="/v1", dependencies=nobody if where == "router" else [])
        router.include_router(hub.protocol_router("/{channel}", JSON))
        app.include_router(router, dependencies=nobody if where == "include" else [])
        app.include_router(hub.protocol_router("/open/{channel}", JSON), prefix="/v2")
        async with serving(hub, app) as running:
            with pytest.raises(InvalidStatus) as caught:
                async with running.open("/v1/a"):
                    pass
            assert caught.value.response.status_code == 403
            if where != "application":
                async with running.open("/v2/open/a") as client:
                    await client.send('{"n": 1}')
                    assert '"n": 1' in await receive(client)

    run(main())


class Order(BaseModel):
    """A model with an alias."""

    order_id: int = Field(alias="orderId", gt=0)


def test_models_come_in_and_go_out_by_their_aliases() -> None:
    async def main() -> None:
        hub = Hub()

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket, protocol=JSON) as connection:
                first = await connection.receive_json(Order)
                await connection.send_json({"first": first, "all": [first]})
                async for order in connection.iter_json(Order):
                    await connection.send_json(order)

        async with serving(hub, endpoint) as running, running.open() as client:
            await client.send('{"orderId": 1}')
            assert await receive(client) == '{"first":{"orderId":1},"all":[{"orderId":1}]}'
            await client.send('{"orderId": 0}')
            assert "orderId: Input should be greater than 0" in await receive(client)
            await client.send("{")
            assert "wrong shape" in await receive(client)
            await client.send('{"orderId": 2}')
            assert await receive(client) == '{"orderId":2}'

    run(main())


@pytest.mark.parametrize("value", [Order(orderId=1), [Order(orderId=1)], {"a": (Order(orderId=1),)}])
def test_aliases_wherever_a_model_stands(value: Any) -> None:
    assert b'"orderId":1' in encode_json(value)
