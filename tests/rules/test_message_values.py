"""The values that an application publishes: as a model or as the same value in a dict, they are the same bytes."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import math
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

import msgspec
import pytest
from fastapi import FastAPI, WebSocket
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    computed_field,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType
from websockets.asyncio.client import connect

from helpers.hubs import receive, serving
from tidewire import BadRequest, Hub, InvalidMessage
from tidewire.client import Client
from tidewire.protocols import problems
from tidewire.protocols.json import JSON


class Named(BaseModel):
    """Read by one name, and written by another one."""

    own: int = Field(serialization_alias="out")


class Doubled(BaseModel):
    """Written with a field that it does not take."""

    model_config = ConfigDict(extra="forbid")

    x: int

    @computed_field
    def twice(self) -> int:
        return self.x * 2


class Kind(enum.Enum):
    """A kind."""

    TEA = "tea"


class Values(BaseModel):
    """What JSON writes as text."""

    raw: bytes
    price: Decimal
    kind: Kind
    tags: set[str]
    by_day: dict[date, int]


class Strict(BaseModel):
    """Takes a day as Python has it, or as JSON has it."""

    model_config = ConfigDict(strict=True)

    at: date


@pydantic_dataclass
class Aliased:
    """A dataclass that is written by another name."""

    own: int = Field(alias="theirs")


@dataclasses.dataclass
class Holder:
    """A dataclass with a model in it."""

    named: Named
    lasts: timedelta


class Typed(TypedDict):
    """A TypedDict with a model in it."""

    named: Named
    day: NotRequired[date]


class Pair(NamedTuple):
    """A tuple with a model in it."""

    number: int
    named: Named


class Names(RootModel[dict[str, Named]]):
    """Models by names."""


class Struct(msgspec.Struct, rename="camel"):
    """A struct that is written by other names."""

    own_name: int


@dataclasses.dataclass
class OfStructs:
    """A dataclass with structs in it."""

    structs: list[Struct]


class Figure(BaseModel):
    """A number that may be missing, under another name."""

    size: float | None = Field(default=None, serialization_alias="Size")
    exact: float = Field(default=0.0, serialization_alias="Exact")


VALUES: dict[str, Any] = {
    "raw": b"abc",
    "price": Decimal("1.50"),
    "kind": Kind.TEA,
    "tags": {"a"},
    "by_day": {date(2020, 1, 1): 1},
}


async def published(type_: Any, data: Any) -> bytes:
    hub = Hub()

    @hub.channel("values", publishes=type_)
    async def values() -> bool:
        return True

    async with hub:
        await hub.publish("values", data)
        (publication,) = (await hub.history("values")).publications
    return publication.data


@pytest.mark.parametrize(
    ("type_", "model", "plain", "shown"),
    [
        (Named, Named(own=1), {"own": 1}, {"out": 1}),
        (list[Named], [Named(own=1)], [{"own": 1}], [{"out": 1}]),
        (dict[str, Named], {"a": Named(own=1)}, {"a": {"own": 1}}, {"a": {"out": 1}}),
        (tuple[Named, int], (Named(own=1), 2), [{"own": 1}, 2], [{"out": 1}, 2]),
        (list[Doubled], [Doubled(x=1)], [{"x": 1}], [{"x": 1, "twice": 2}]),
        (list[Named | Doubled], [Doubled(x=1), Named(own=2)], [{"x": 1}, {"own": 2}],
         [{"x": 1, "twice": 2}, {"out": 2}]),
        (Annotated[list[Named], Field(max_length=2)], [Named(own=1)], [{"own": 1}], [{"out": 1}]),
        (list[Aliased], [Aliased(theirs=1)], [{"theirs": 1}], [{"theirs": 1}]),
        (Holder, Holder(Named(own=1), timedelta(1)), {"named": Named(own=1), "lasts": "P1D"},
         {"named": {"out": 1}, "lasts": "P1D"}),
        (list[Holder], [Holder(Named(own=1), timedelta(1))], [{"named": {"own": 1}, "lasts": timedelta(1)}],
         [{"named": {"out": 1}, "lasts": "P1D"}]),
        (Typed, {"named": Named(own=1), "day": date(2020, 1, 1)}, {"named": {"own": 1}, "day": "2020-01-01"},
         {"named": {"out": 1}, "day": "2020-01-01"}),
        (Pair, Pair(1, Named(own=2)), [1, {"own": 2}], [1, {"out": 2}]),
        (list[Names], [Names({"a": Named(own=1)})], [{"a": {"own": 1}}], [{"a": {"out": 1}}]),
        (Values, Values(**VALUES), VALUES,
         {"raw": "abc", "price": "1.50", "kind": "tea", "tags": ["a"], "by_day": {"2020-01-01": 1}}),
        (list[Strict], [Strict(at=date(2020, 1, 1))], [{"at": "2020-01-01"}], [{"at": "2020-01-01"}]),
        (list[Struct], [Struct(1)], [{"ownName": 1}], [{"ownName": 1}]),
        (OfStructs, OfStructs([Struct(1)]), {"structs": [{"ownName": 1}]}, {"structs": [{"ownName": 1}]}),
        (Figure, Figure(size=math.inf), {"size": math.inf}, {"Size": None, "Exact": 0.0}),
    ],
)  # fmt: skip
def test_a_model_and_the_same_value_are_the_same_bytes(type_: Any, model: Any, plain: Any, shown: Any) -> None:
    by_model, by_value = (asyncio.run(published(type_, data)) for data in (model, plain))
    assert (by_model, json.loads(by_model)) == (by_value, shown)


def test_a_client_publishes_null_where_the_type_has_it() -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router())

    @hub.channel("perhaps", publishes=Figure | None)
    async def perhaps() -> bool:
        return True

    @hub.channel("surely", publishes=Figure)
    async def surely() -> bool:
        return True

    async def main() -> None:
        async with (
            serving(hub, app) as application,
            Client(f"ws://127.0.0.1:{application.port}/connection/websocket") as client,
        ):
            await client.publish("perhaps", None)
            assert [one.json() for one in (await hub.history("perhaps")).publications] == [None]
            with pytest.raises(InvalidMessage):
                await client.publish("surely", None)

    asyncio.run(main())


class Wide(BaseModel):
    """Writes infinite numbers as JSON does not have them."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    size: float


@pytest.mark.parametrize("data", [Figure(exact=math.inf), {"exact": math.nan}, [], {"size": "x"}])
def test_what_is_no_value_of_the_type_is_refused(data: Any) -> None:
    with pytest.raises(InvalidMessage):
        asyncio.run(published(Figure, data))


@pytest.mark.parametrize("type_", [Wide, None])
def test_no_number_is_published_that_json_does_not_have(type_: Any) -> None:
    with pytest.raises(BadRequest, match="cannot be sent as JSON"):
        asyncio.run(published(type_, Wide(size=math.inf)))


class OfText(BaseModel):
    """Takes what JSON has, and nothing else: its validators know no other values."""

    at: Annotated[datetime, BeforeValidator(lambda value: datetime.fromisoformat(value))]

    @model_validator(mode="before")
    @classmethod
    def read(cls, data: Any) -> Any:
        return {"at": data.get("at", data.get("on"))}


@pytest.mark.parametrize(
    "data",
    [{"at": datetime(2020, 1, 1)}, {"on": "2020-01-01"}, '{"at": "2020-01-01"}', b'{"at": "2020-01-01"}', None, [], 5],
)
def test_a_validator_may_take_what_json_has_alone(data: Any) -> None:
    """A datetime, which is a text in JSON, was a TypeError."""
    if not data or data == 5:
        with pytest.raises(BadRequest, match=r"OfText.*raised AttributeError") as raised:
            asyncio.run(published(OfText, data))
        assert isinstance(raised.value.__cause__, AttributeError)
    else:
        assert json.loads(asyncio.run(published(OfText, data))) == {"at": "2020-01-01T00:00:00"}


class Ends(BaseModel):
    """A validator that ends programs, and a field that cannot be written."""

    ends: Annotated[int, BeforeValidator(lambda value: sys.exit(2) if value else 0)]

    @computed_field
    def broken(self) -> int:
        return {}[self.ends]


@pytest.mark.parametrize(
    ("type_", "data", "why"),
    [
        (OfText, {"at": 5}, "TypeError: fromisoformat"),
        (OfText, {"at": object()}, "cannot be sent as JSON"),
        (OfText, {"at": "never"}, "wrong shape: at: .*isoformat"),
        (Ends, {"ends": 1}, "SystemExit"),
        (Ends, '{"ends": 1}', "SystemExit"),
        (Ends, {"ends": 0}, "KeyError: 0"),
        (Figure, {"size": object()}, "wrong shape: size: "),
        (Figure, {"size": float}, "wrong shape: size: "),
    ],
)
def test_no_error_of_a_validator_is_raw(type_: Any, data: Any, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        asyncio.run(published(type_, data))


class Three(BaseModel):
    """Three fields that must be there."""

    a: int
    b: int
    c: list[int]


def test_the_text_of_an_error_names_all_problems() -> None:
    with pytest.raises(InvalidMessage) as raised:
        asyncio.run(published(Three, {"b": "x", "c": ["y"] * 20}))
    text = str(raised.value)
    assert "wrong shape: a: Field required; b: Input should be a valid integer" in text
    assert "; c.7: Input" in text
    assert "c.8: Input" not in text
    assert "; and 12 more; expected" in text
    assert len(raised.value.problems) == 10


def test_very_many_problems_are_counted_and_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making 32,000 of them, to show ten, took 30 ms of the loop."""
    made: list[int] = []

    class Counting:
        def __init__(self, error: ValidationError) -> None:
            self._error = error

        def error_count(self) -> int:
            return self._error.error_count()

        def errors(self, **options: Any) -> list[Any]:
            made.append(self._error.error_count())
            return self._error.errors(**options)

    monkeypatch.setattr(problems, "_of_pydantic", lambda error, take=problems._of_pydantic: take(Counting(error)))
    for count in (300, 32_000):
        with pytest.raises(InvalidMessage) as raised:
            asyncio.run(published(list[int], b"[" + b",".join([b'""'] * count) + b"]"))
    assert made == [300]
    assert "wrong shape: the value: 32000 parts of it do not fit; expected" in str(raised.value)
    assert raised.value.detail == [{"type": "value_error", "loc": ["body"], "msg": "32000 parts of it do not fit"}]


class OfKind(msgspec.Struct):
    """A struct that msgspec reads."""

    kind: Kind


class Endless(BaseModel):
    """Makes an infinite number where null does not stand for one."""

    by_name: dict[str, Annotated[float, AfterValidator(lambda value: math.inf)]]


def nested(depth: int, name: str, value: Any) -> Any:
    return {name: nested(depth - 1, name, value)} if depth else value


Tree = TypeAliasType("Tree", "dict[str, Tree] | int")


@pytest.mark.parametrize(
    ("type_", "data", "shown"),
    [
        (list[Doubled], [{"x": 1, "y" * 10_000: n} for n in range(20)], "; and 10 more; expected"),
        (list[Tree], [nested(20, "y" * 3_000, "no")] * 10, "0.dict"),
        (list[Tree], [nested(20, "", "no")] * 10, "0.dict"),
        (OfKind, {"kind": "y" * 60_000}, "yy… - at `$.kind`; expected"),
        (Endless, {"by_name": {"y" * 60_000: 1}}, "by_name.yyy"),
    ],
)
def test_what_the_client_chooses_makes_no_long_answer(type_: Any, data: Any, shown: str) -> None:
    with pytest.raises(InvalidMessage) as raised:
        asyncio.run(published(type_, json.dumps(data)))
    text = str(raised.value)
    assert shown in text
    assert len(text) < 2_200
    assert all(len(json.dumps(problem, ensure_ascii=False)) < 1_500 for problem in raised.value.detail)


NO_JSON = ("NaN", "Infinity", "-Infinity", "1e999", "-1e400")


@pytest.mark.parametrize("number", NO_JSON)
def test_a_number_that_json_does_not_have_is_refused_on_the_way_in(number: str) -> None:
    hub, read = Hub(), []
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket) -> None:
        async with hub.connect(websocket, protocol=JSON) as connection:
            async for figure in connection.iter_json(Figure):
                read.append(figure)
                await connection.send_json({"size": figure.size})

    async def main() -> None:
        async with (
            serving(hub, app) as application,
            connect(f"ws://127.0.0.1:{application.port}/ws", proxy=None) as client,
        ):
            for text in (f'{{"size": {number}}}', '{"size": 1e3}'):
                await client.send(text)
            assert "not JSON" in json.loads(await receive(client))["content"]
            assert json.loads(await receive(client)) == {"size": 1000.0}

    asyncio.run(main())
    assert read == [Figure(size=1000.0)]
    with pytest.raises(InvalidMessage):
        asyncio.run(published(Figure, f'{{"size": {number}}}'))
