"""Types of messages: what comes in is checked, by every way in, and what is stored already is shown as it is."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import asyncpg
import httpx
import msgspec
import pytest
from fastapi import FastAPI, WebSocket
from pydantic import BaseModel, Field, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from starlette.requests import HTTPConnection

from helpers.hubs import receive, serving
from helpers.stores import postgres_database
from tidewire import (
    BadRequest,
    ConfigurationError,
    Hub,
    InvalidMessage,
    Limits,
    PermissionDenied,
    Publisher,
    TidewireError,
)
from tidewire.client import Client
from tidewire.protocols.json import JSON
from tidewire.testing import wait_until


class Said(BaseModel):
    """A message of a room."""

    type: Literal["said"] = "said"
    text: str = Field(min_length=1)
    number: int = 0


class Left(BaseModel):
    """A user has left a room."""

    type: Literal["left"] = "left"
    user: str


class Say(BaseModel):
    """A message that a client sends."""

    text: str = Field(min_length=1)


@dataclasses.dataclass
class DataSaid:
    """A dataclass."""

    text: str
    number: int = 0


class DictSaid(TypedDict, total=False):
    """A TypedDict of `typing`, with a nested one."""

    text: str
    number: int


class StructSaid(msgspec.Struct, tag="said"):
    """A struct of a union."""

    text: str
    number: int = 0


class StructLeft(msgspec.Struct, tag="left"):
    """Another one."""

    user: str


LEFT = {"type": "left", "user": "ann"}
Event = Annotated[Said | Left, Field(discriminator="type")]


def typed(type_: Any, accepts: Any = None) -> Hub:
    hub = Hub()

    @hub.channel("room:{room}", publishes=type_, accepts=accepts)
    async def room(room: int) -> bool:
        return True

    return hub


async def kept(hub: Hub, channel: str = "room:1") -> list[Any]:
    return [json.loads(publication.data) for publication in (await hub.history(channel)).publications]


@pytest.mark.parametrize(
    ("type_", "right", "shown", "wrong", "loc"),
    [
        (Said, {"text": "hi", "number": "5", "more": 1}, {"type": "said", "text": "hi", "number": 5}, {}, ["text"]),
        (Said | Left, {"type": "left", "user": "ann"}, {"type": "left", "user": "ann"}, [], []),
        (Event, {"type": "said", "text": "hi"}, {"type": "said", "text": "hi", "number": 0}, {"type": "no"}, []),
        (DataSaid, {"text": "hi"}, {"text": "hi", "number": 0}, {"text": "hi", "number": "x"}, ["number"]),
        (DictSaid, {"text": "hi"}, {"text": "hi"}, {"text": 5}, ["text"]),
        (StructSaid, {"type": "said", "text": "hi"}, {"type": "said", "text": "hi", "number": 0}, {}, ["text"]),
        (StructSaid | StructLeft, LEFT, LEFT, {"type": "left"}, ["user"]),
        (StructSaid, StructSaid("hi", 1), {"type": "said", "text": "hi", "number": 1}, StructSaid(5), ["text"]),  # type: ignore[arg-type]
        (DataSaid, DataSaid("hi"), {"text": "hi", "number": 0}, DataSaid(5), ["text"]),  # type: ignore[arg-type]
        (list[int], [1, "2"], [1, 2], [1, "x"], [1]),
    ],
)  # fmt: skip
def test_what_an_application_publishes_is_checked(type_: Any, right: Any, shown: Any, wrong: Any, loc: Any) -> None:
    async def main() -> None:
        async with typed(type_) as hub:
            await hub.publish("room:1", right)
            with pytest.raises(InvalidMessage) as raised:
                await hub.publish("room:1", wrong)
            for other in ("text", b"\xff", None, 5):
                with pytest.raises(InvalidMessage):
                    await hub.publish("room:1", other)
            assert await kept(hub) == [shown]
            detail = raised.value.detail
            assert detail[0]["loc"][0] == "body"
            assert any(problem["loc"][len(problem["loc"]) - len(loc) :] == loc for problem in detail)
            await hub.publish("other", wrong)  # a channel without a type is as it was

    asyncio.run(main())


def test_a_model_is_published_by_its_aliases_and_text_by_its_type() -> None:
    class Named(BaseModel):
        own: int = Field(alias="theirs")

    async def main() -> None:
        async with typed(Named) as hub:
            await hub.publish("room:1", Named(theirs=1))
            await hub.publish("room:1", {"theirs": 2})
            await hub.publish("room:1", '{"theirs": 3}')
            assert await kept(hub) == [{"theirs": 1}, {"theirs": 2}, {"theirs": 3}]
        async with typed(str) as hub:
            await hub.publish("room:1", "5")
            page = await hub.history("room:1")
            assert (page.publications[0].data, page.publications[0].format.name) == (b"5", "TEXT")
            with pytest.raises(InvalidMessage):
                await hub.publish("room:1", {"text": 1})

    asyncio.run(main())


class Unknown:
    """No type of messages."""


@pytest.mark.parametrize("type_", [Unknown, 5, Said | StructSaid, "Nowhere"])
def test_what_is_no_type_is_refused_where_it_is_written(type_: Any) -> None:
    with pytest.raises(ConfigurationError, match="no type of messages"):
        typed(type_)


@pytest.mark.parametrize("is_defined", [True, False])
def test_what_a_type_names_is_looked_for_when_the_hub_opens(is_defined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = {"__module__": __name__, "__annotations__": {"later": "DefinedLater"}}
    names_another: Any = type("NamesAnother", (BaseModel,), namespace)
    hubs = [typed(names_another), typed(Said, names_another), Hub(), Hub()]

    async def call(data: Any) -> None:
        return None

    async def handle(message: Any) -> None:
        return None

    async def room() -> bool:
        return True

    call.__annotations__["data"] = handle.__annotations__["message"] = names_another
    hubs[2].rpc("call")(call)
    hubs[3].channel("room")(room).on_publish(handle)
    if is_defined:
        monkeypatch.setitem(globals(), "DefinedLater", int)

    async def opened(hub: Hub) -> None:
        async with hub:
            hub.asyncapi()

    for hub in hubs:
        if is_defined:
            asyncio.run(opened(hub))
        else:
            with pytest.raises(ConfigurationError, match=r"NamesAnother.*DefinedLater.*is not defined"):
                asyncio.run(opened(hub))
            with pytest.raises(ConfigurationError, match="DefinedLater"):
                hub.asyncapi()


async def who(connection: HTTPConnection) -> str:
    return connection.query_params.get("user", "")


@asynccontextmanager
async def served(hub: Hub) -> AsyncIterator[tuple[int, FastAPI]]:
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=who))
    app.include_router(hub.protocol_router("/json/{channel}", JSON, user=who))
    app.include_router(hub.api_router(key="k"))

    @app.websocket("/own")
    async def own(websocket: WebSocket) -> None:
        async with hub.connect(websocket, protocol=JSON) as connection:
            async for message in connection.iter_json():
                assert await connection.publish("room:1", message) == ("text" in message)
                assert await (await connection.submit("room:1", message)) == ("text" in message)

    async with serving(hub, app) as application:
        yield application.port, app


def test_every_way_in_answers_as_fastapi_does() -> None:
    missing = {"type": "missing", "loc": ["body", "text"], "msg": "Field required", "input": {"type": "said"}}

    async def main() -> None:
        async with served(typed(Said)) as (port, _):
            hub_url = f"ws://127.0.0.1:{port}/connection/websocket?user=ann"
            async with Client(hub_url) as client:
                with pytest.raises(InvalidMessage, match=r"body\.text: Field required") as raised:
                    await client.publish("room:1", {"type": "said"})
                assert raised.value.detail == [missing]
                await client.publish("room:1", Said(text="by model"))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": "k"}) as http:
                call = {"channel": "room:1", "data": {"type": "said"}}
                answer = (await http.post("/api/publish", json=call)).json()["error"]
                assert (answer["code"], answer["detail"]) == (107, [missing])
                headers = {"X-Centrifugo-Error-Mode": "transport"}
                answer = await http.post("/api/publish", json=call, headers=headers)
                assert (answer.status_code, answer.json()["detail"]) == (422, [missing])
                several = {"channels": ["room:1", "room:2"], "data": {"type": "said"}}
                answer = (await http.post("/api/broadcast", json=several)).json()["result"]["responses"]
                assert [one["error"]["code"] for one in answer] == [107, 107]
                answer = (await http.post("/api/publish", json=call | {"data": {"text": "by call"}})).json()
                assert answer["result"]["offset"] == 2
            from websockets.asyncio.client import connect

            async with connect(f"ws://127.0.0.1:{port}/json/room:1?user=ann", proxy=None) as native:
                await native.send('{"type": "said"}')
                refusal = json.loads(await receive(native))
                assert (refusal["code"], refusal["detail"]) == ("bad_request", [missing])
                await native.send('{"text": "native"}')
                assert json.loads(await receive(native))["text"] == "native"
            async with connect(f"ws://127.0.0.1:{port}/own", proxy=None) as own:
                await own.send('{"type": "said"}')
                assert [json.loads(await receive(own))["detail"] for _ in range(2)] == [[missing]] * 2

    asyncio.run(main())


def test_a_message_of_an_older_type_recovers(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/store.db"

    async def main() -> None:
        async with Hub(url) as old:
            first = await old.publish("room:1", {"old": True})
            await old.publish("room:1", {"older": 5})
        hub = Hub(url)

        @hub.channel("room:{room}", publishes=Said)
        async def room(room: int) -> bool:
            return True

        async with served(hub) as (port, _), Client(f"ws://127.0.0.1:{port}/connection/websocket") as client:
            subscription = client.subscribe("room:1", since=first)
            await subscription.wait_subscribed()
            assert (await anext(subscription)).data == {"older": 5}
        with Publisher(hub) as publisher:
            with pytest.raises(InvalidMessage):
                publisher.publish("room:1", {"text": ""})
            publisher.publish("room:1", Said(text="hi"))
            publisher.publish("other", {"text": ""})
        async with hub:
            assert [one.get("text") for one in await kept(hub)] == [None, None, "hi"]

    asyncio.run(main())


def test_the_command_line_knows_the_types_of_an_application(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        f"""
from fastapi import FastAPI
from pydantic import BaseModel
from tidewire import Hub

class Said(BaseModel):
    text: str

hub = Hub("sqlite:///{tmp_path}/store.db")
app = FastAPI(lifespan=hub.lifespan)

@hub.channel("room:{{room}}", publishes=Said)
async def room(room: int) -> bool:
    return True
"""
    )

    def publish(data: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tidewire", "publish", "room:1", data, *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    wrong = publish('{"tetx": "hi"}', "--app", "main:app")
    assert (wrong.returncode, "text: Field required" in wrong.stderr) == (2, True), wrong
    right = publish('{"text": "hi", "more": 1}', "--app", "main:hub")
    assert (right.returncode, "offset 1" in right.stdout + right.stderr) == (0, True), right
    assert "cannot be loaded" in publish("{}", "--app", "main:nothing").stderr
    (tmp_path / "slip.py").write_text("import main\n\nmain.hub.chanel('a')\n")
    (slip,) = publish("{}", "--app", "slip:hub").stderr.splitlines()
    assert slip == (
        "error: slip:hub cannot be loaded: AttributeError: 'Hub' object has no attribute 'chanel' (slip.py, line 3)"
    )


def test_what_is_accepted_without_a_handler_is_published_as_it_is() -> None:
    async def main() -> None:
        hub = typed(Said | Left, accepts=Say)
        async with served(hub) as (port, _), Client(f"ws://127.0.0.1:{port}/connection/websocket") as client:
            await client.publish("room:1", {"text": "hi"})
            for wrong in ({"text": ""}, {"user": "ann", "type": "left"}, "hi", 5):
                with pytest.raises(InvalidMessage):
                    await client.publish("room:1", wrong)
            assert await kept(hub) == [{"text": "hi"}]

    asyncio.run(main())


def test_the_answer_to_a_wrong_message_is_short() -> None:
    many = [{"text": "x" * 1_000}] * 1_000
    with pytest.raises(InvalidMessage) as raised:
        asyncio.run(publish_in(typed(list[Left]), many))
    assert len(json.dumps(raised.value.detail)) < 4_000


async def publish_in(hub: Hub, data: Any) -> None:
    async with hub:
        await hub.publish("room:1", data)


def test_a_native_client_is_ruled_by_the_rules() -> None:
    hub = Hub(limits=Limits(ping_seconds=60))

    @hub.channel("own:{name}", publishes=Say, presence=True)
    async def own(name: str, user: str) -> bool:
        if user == "eve":
            raise PermissionDenied("not eve")
        return name == user

    async def main() -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidStatus

        async with served(hub) as (port, _):
            for user in ("bob", "eve", ""):
                with pytest.raises(InvalidStatus):
                    async with connect(f"ws://127.0.0.1:{port}/json/own:ann?user={user}", proxy=None):
                        pass
            async with connect(f"ws://127.0.0.1:{port}/json/own:ann?user=ann", proxy=None) as ann:
                await ann.send('{"text": "mine"}')
                assert json.loads(await receive(ann))["text"] == "mine"
                assert await hub.users("own:ann") == ["ann"]

    asyncio.run(main())


def test_results_of_calls_are_of_a_type() -> None:
    hub = Hub()

    @hub.rpc("twice")
    async def twice(data: Say) -> Said:
        return Said(text=data.text * 2)

    async def main() -> None:
        async with served(hub) as (port, _), Client(f"ws://127.0.0.1:{port}/connection/websocket") as client:
            assert await client.rpc("twice", Say(text="ha"), Said) == Said(text="haha")
            with pytest.raises(InvalidMessage, match="Field required"):
                await client.rpc("twice", {}, Said)
            with pytest.raises(InvalidMessage):
                await client.rpc("twice", Say(text="ha"), Left)

    asyncio.run(main())


class Figures(BaseModel):
    """Numbers that JSON does not have, or not every program can read, and a validator that ends programs."""

    count: int = 0
    size: float = 0
    rest: float | None = None
    raw: bytes = b""

    @field_validator("count")
    @classmethod
    def ends(cls, count: int) -> int:
        if count == 13:
            sys.exit("no such count")
        return count


def test_what_a_type_takes_is_published_only_as_others_can_read_it() -> None:
    async def main() -> None:
        hub = typed(Figures)
        async with served(hub) as (port, _), Client(f"ws://127.0.0.1:{port}/connection/websocket") as client:
            for size in ("inf", "-1e999", "nan"):
                with pytest.raises(InvalidMessage, match=r"body\.size: Input should be a finite number"):
                    await client.publish("room:1", {"size": size})
            with pytest.raises(BadRequest):
                await client.publish("room:1", {"count": "1" * 400})
            with pytest.raises(TidewireError, match="internal server error"):
                await client.publish("room:1", {"count": 13})
            await client.publish("room:1", {"rest": "nan"})  # null is of its type
            for wrong in (Figures(size=math.inf), Figures(count=10**400), Figures(raw=b"\xff")):
                with pytest.raises(BadRequest):
                    await hub.publish("room:1", wrong)
            assert await kept(hub) == [{"count": 0, "size": 0, "rest": None, "raw": ""}]

    asyncio.run(main())


def test_a_dataclass_of_pydantic_is_published_by_its_aliases() -> None:
    @pydantic_dataclass
    class Named:
        own: int = Field(alias="theirs")

    async def main() -> None:
        async with typed(Named) as hub:
            await hub.publish("room:1", Named(theirs=1))
            assert await kept(hub) == [{"theirs": 1}]

    asyncio.run(main())


def test_a_text_that_is_no_json_is_told_as_it_is() -> None:
    with pytest.raises(InvalidMessage) as raised:
        asyncio.run(publish_in(typed(int), "five"))
    assert raised.value.detail[0]["input"] == "five"


def test_what_sql_publishes_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    url = postgres_database()

    async def main() -> None:
        hub = Hub(url)

        @hub.channel("room:{room}", publishes=Said)
        async def room(room: int) -> bool:
            return True

        async with hub:
            await hub.node.publish("room:1", b'{"older": 1}')  # of an older type: it is not told again
            connection = await asyncpg.connect(url)
            try:
                async with connection.transaction():
                    for data in ('{"text": "right"}', '{"tetx": "wrong"}'):
                        await connection.execute("SELECT tidewire_publish('room:1', $1::jsonb)", data)
                    await connection.execute("SELECT tidewire_publish('other', '5'::jsonb)")
                await wait_until(lambda: "came by SQL" in caplog.text)
            finally:
                await connection.close()
            assert [one.get("tetx") for one in await kept(hub)] == [None, None, "wrong"]

    asyncio.run(main())
    told = [record for record in caplog.records if "came by SQL" in record.getMessage()]
    assert len(told) == 1
    assert "text: Field required" in told[0].getMessage()
