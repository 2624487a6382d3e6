"""Routes and models behave as FastAPI's own (issues of FastAPI: dependencies of routers for WebSockets, aliases)."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket, WebSocketException
from pydantic import BaseModel, Field, PositiveInt, StringConstraints, TypeAdapter, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Router
from starlette.types import Receive, Scope, Send
from websockets.exceptions import InvalidStatus

from helpers.hubs import receive, run, serving
from tidewire import BadRequest, Hub, InvalidMessage
from tidewire.protocols.json import JSON
from tidewire.protocols.json_text import JsonDecoder
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


@pytest.mark.parametrize("is_deep", [False, True])
def test_errors_in_mounted_applications_are_answered(is_deep: bool) -> None:
    """They were 500, and a RuntimeError: "Caught handled exception, but response already started"."""
    hub, inner = Hub(), FastAPI()
    app = FastAPI(lifespan=hub.lifespan)
    app.mount("/inner", Router([Mount("/deep", inner)]) if is_deep else inner)

    @inner.post("/{name:path}")
    async def publish(name: str) -> None:
        await hub.publish(name, "x")

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with hub.lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path = "/inner/deep/" if is_deep else "/inner/"
            assert (await client.post(f"{path}a")).status_code == 200
            answer = await client.post(path)
            assert answer.status_code == 400
            assert "channel name" in answer.json()["detail"]

    run(main())


class _Bottle:
    """An application of another framework, whose routes lead back to it."""

    def __init__(self, *, is_list: bool) -> None:
        self.routes: Any = lambda: [self]
        if is_list:
            self.routes, self.app = [self], self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("theirs")(scope, receive, send)


@pytest.mark.parametrize("is_list", [False, True])
def test_a_mounted_application_of_another_framework_is_left_alone(is_list: bool) -> None:
    """The start failed where `routes` was a method, and never ended where they led back to the application."""
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.mount("/theirs", _Bottle(is_list=is_list))
    app.mount("/itself", app)

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with hub.lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/theirs/")).text == "theirs"

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


@dataclass
class Step:
    """A dataclass with the constraint of an annotation."""

    size: Annotated[int, Field(gt=0)]


@pydantic_dataclass
class Name:
    """A dataclass of pydantic, with a validator."""

    text: str

    @field_validator("text")
    @classmethod
    def check(cls, text: str) -> str:
        if " " in text:
            raise ValueError("no spaces")
        return text


class Point(NamedTuple):
    """A tuple with a constraint."""

    x: PositiveInt


@pytest.mark.parametrize(
    ("type_", "wrong", "right"),
    [
        (list[PositiveInt], "[-1]", "[1]"),
        (dict[str, PositiveInt], '{"a":-1}', '{"a":1}'),
        (PositiveInt | None, "-1", "null"),
        (tuple[PositiveInt, int], "[-1,1]", "[1,1]"),
        (list[Annotated[str, StringConstraints(max_length=2)]], '["abc"]', '["ab"]'),
        (Step, '{"size":-1}', '{"size":"1"}'),
        (list[Step], '[{"size":-1}]', '[{"size":1}]'),
        (Name, '{"text":"a b"}', '{"text":"a"}'),
        (Point, "[-1]", "[1]"),
    ],
)
def test_a_constraint_holds_wherever_it_stands(type_: Any, wrong: str, right: str) -> None:
    """`iter_json(list[PositiveInt])` took -1: only the outermost annotation held, where FastAPI checks all."""
    decode = JsonDecoder(type_).decode
    with pytest.raises(InvalidMessage):
        decode(wrong.encode())
    assert decode(right.encode()) == TypeAdapter(type_).validate_json(right)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({None: 1, True: 2, 3: 4}, '{"null":1,"true":2,"3":4}'),
        ({"a": [{False: Order(orderId=1)}]}, '{"a":[{"false":{"orderId":1}}]}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (ChainMap({"a": 1}, {"b": 2}), '{"b":2,"a":1}'),
    ],
)
def test_keys_and_mappings_as_a_route_returns_them(value: Any, text: str) -> None:
    """ "Object of type … is not JSON serializable" (python-socketio#183, Flask-SocketIO#544)."""
    assert encode_json(value) == text.encode()


def test_what_json_cannot_hold_is_said() -> None:
    itself: list[Any] = []
    itself.append(itself)
    for wrong in (itself, {(1, 2): 3}, {"a": object()}):
        with pytest.raises(BadRequest, match="cannot be sent as JSON"):
            encode_json(wrong)


def test_a_plain_parameter_of_a_call_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """`def add(left: int)` took its argument from the user dependency: "permission denied", and nothing in the log."""

    async def main() -> None:
        hub = Hub()
        app = FastAPI(lifespan=hub.lifespan)
        app.include_router(hub.client_router(user=lambda: "ann"))

        @hub.rpc("add")
        def add(left: int) -> int:
            return left

        async with serving(hub, app) as running, running.open("/connection/websocket") as client:
            await client.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"add","data":{"left":1}}}')
            while '"id":2' not in (answer := await receive(client)):
                pass
            assert "permission denied" in answer

    run(main())
    assert "add: no user dependency gave 'left'" in caplog.text
