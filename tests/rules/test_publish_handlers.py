"""Handlers: what clients publish is given to the application before it is kept, in the client's order."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect

from helpers.hubs import receive, serving
from tidewire import (
    CommandError,
    ConfigurationError,
    Hub,
    InvalidMessage,
    NotPublished,
    PermissionDenied,
    PublishUnconfirmed,
    Refused,
    StoreUnavailable,
    TemporaryFailure,
    TidewireError,
)
from tidewire.client import Client
from tidewire.protocols.json import JSON


@dataclasses.dataclass(frozen=True)
class User:
    """The user of the application."""

    name: str


class Say(BaseModel):
    """A message that a client sends."""

    text: str = Field(min_length=1)


class Said(BaseModel):
    """A message that is published."""

    sender: str
    text: str
    room: int = 0


seen: list[Any] = []


async def session() -> AsyncIterator[str]:
    yield "session"
    seen.append("closed")


async def user(connection: HTTPConnection) -> User:
    return User(connection.query_params.get("user", "ann"))


@asynccontextmanager
async def served(hub: Hub) -> AsyncIterator[str]:
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=user, name=lambda who: str(who.name)))
    app.include_router(hub.protocol_router("/json/{channel}", JSON, user=user, name=lambda who: str(who.name)))
    async with serving(hub, app) as application:
        yield f"ws://127.0.0.1:{application.port}"


async def texts(hub: Hub, channel: str = "room:1") -> list[Any]:
    return [json.loads(publication.data) for publication in (await hub.history(channel)).publications]


def chat(url: str = "memory://") -> Hub:
    hub = Hub(url)

    @hub.channel("room:{room}", publishes=Said, accepts=Say)
    async def room(room: int, user: User) -> bool:
        return True

    @room.on_publish
    async def said(room: int, user: User, message: Say) -> Said | None:
        if message.text == "nothing":
            return None
        if message.text == "no":
            raise PermissionDenied("this is not said here")
        if message.text == "late":
            raise HTTPException(403, "too late")
        if message.text == "four":
            raise Refused(444, "four")
        if message.text == "bug":
            raise ZeroDivisionError
        if message.text == "wrong":
            return "not a Said"  # type: ignore[return-value]
        if message.text == "unsendable":
            return {"sender": object()}  # type: ignore[return-value]
        if message.text.startswith("slow"):
            await asyncio.sleep(0.05)
        return Said(sender=user.name, text=message.text.upper(), room=room)

    return hub


@pytest.mark.parametrize("store", ["memory://", "sqlite:///{}/store.db"])
def test_what_a_handler_returns_is_published(store: str, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hub = chat(store.format(tmp_path))
        async with served(hub) as url, Client(f"{url}/connection/websocket?user=bob") as client:
            await client.publish("room:1", Say(text="hi"))
            await client.publish("room:1", {"text": "nothing"})
            with pytest.raises(InvalidMessage):
                await client.publish("room:1", {"text": ""})
            for text, error in (("no", "permission denied"), ("late", "permission denied"), ("four", "four")):
                with pytest.raises(CommandError, match=error):
                    await client.publish("room:1", {"text": text})
            for text in ("bug", "unsendable", "wrong"):
                with pytest.raises(Exception, match="internal"):
                    await client.publish("room:1", {"text": text})
            assert await texts(hub) == [{"sender": "bob", "text": "HI", "room": 1}]
            failure = caplog.records[-1].exc_info
            assert failure is not None
            first, *rest = str(failure[1]).splitlines()
            assert first == "the handler of 'room:{room}' returned str, which its rule does not publish"
            assert rest
            assert "above exception" not in caplog.text
            (publication,) = (await client.history("room:1")).publications
            assert getattr(publication.publisher, "user", None) == "bob"
            # what the application publishes passes no handler, and is checked all the same
            await hub.publish("room:1", Said(sender="app", text="nothing"))
            with pytest.raises(InvalidMessage):
                await hub.publish("room:1", Say(text="hi"))
            assert len(await texts(hub)) == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("outage", "told"),
    [
        (NotPublished("full"), "not published: the store cannot keep this now; try again"),
        (StoreUnavailable("gone"), "the store cannot be used now; try again"),
        (TemporaryFailure("the shop is away"), "the shop is away"),
    ],
)
def test_an_outage_in_a_handler_is_told_and_may_be_tried_again(
    outage: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub("memory://")

    @hub.channel("room:{room}")
    async def room(room: int) -> bool:
        return True

    @room.on_publish
    async def said(message: Any) -> None:
        raise outage

    async def main() -> None:
        async with served(hub) as url:
            async with Client(f"{url}/connection/websocket") as client:
                with pytest.raises(PublishUnconfirmed):
                    await client.publish("room:1", {"n": 1})
            async with connect(f"{url}/json/room:2", proxy=None) as native:
                for _ in range(2):  # the connection goes on
                    await native.send("{}")
                    answer = json.loads(await receive(native))
                    assert (answer["code"], answer["content"]) == ("unavailable", told)
        assert "failed" not in caplog.text

    asyncio.run(main())


def test_messages_of_a_client_stay_in_order_behind_a_slow_handler(tmp_path: Any) -> None:
    async def main() -> None:
        hub = chat(f"sqlite:///{tmp_path}/store.db")
        async with served(hub) as url:
            words = [("slow" if number % 3 == 0 else "fast") + str(number) for number in range(12)]
            async with Client(f"{url}/connection/websocket") as client:
                await asyncio.gather(*(client.publish("room:1", {"text": word}) for word in words))
            assert [one["text"] for one in await texts(hub)] == [word.upper() for word in words]
            async with connect(f"{url}/json/room:2?user=eve", proxy=None) as native:
                for word in ["", "no", *words, "nothing"]:
                    await native.send(json.dumps({"text": word}))
                answers = [json.loads(await receive(native)) for _ in range(14)]
            assert [answer["code"] for answer in answers[:2]] == ["bad_request", "permission_denied"]
            assert [answer["text"] for answer in answers[2:]] == [word.upper() for word in words]
            assert {answer["sender"] for answer in answers[2:]} == {"eve"}

    asyncio.run(main())


def test_a_handler_takes_what_a_rule_takes() -> None:
    hub = Hub()
    seen.clear()

    @hub.channel("a:{name}")
    async def named(name: str, user: str) -> bool:
        return True

    @named.on_publish
    def plain(user: str, session: Annotated[str, Depends(session)], data: Any) -> Any:
        seen.append((user, session, data))
        return data

    @hub.channel("b")
    async def by_type() -> bool:
        return True

    @by_type.on_publish
    async def typed(given: Say, user: User) -> dict[str, str]:
        seen.append((given, user))
        return {"text": given.text}

    @hub.channel("c", publishes=Said)
    async def no_message() -> bool:
        return True

    @no_message.on_publish
    async def ignored() -> None:
        seen.append("ignored")

    async def main() -> None:
        async with served(hub) as url, Client(f"{url}/connection/websocket") as client:
            await client.publish("a:x", [1, None])
            await client.publish("b", Say(text="hi"))
            with pytest.raises(InvalidMessage):
                await client.publish("b", {"text": ""})
            await client.publish("c", Said(sender="ann", text="hi"))
            with pytest.raises(InvalidMessage):
                await client.publish("c", {})
            assert seen == [("ann", "session", [1, None]), "closed", (Say(text="hi"), User("ann")), "ignored"]
            assert (await texts(hub, "a:x"), await texts(hub, "b"), await texts(hub, "c")) == (
                [[1, None]],
                [{"text": "hi"}],
                [],
            )

    asyncio.run(main())


def test_mistakes_are_told_where_they_are_made() -> None:
    hub = chat()

    @hub.channel("x")
    async def rule() -> bool:
        return True

    async def unknown(message: Say, session: Literal["a"]) -> None:
        return None

    async def good(message: Say) -> None:
        return None

    with pytest.raises(ConfigurationError, match="'session'"):
        rule.on_publish(unknown)
    assert rule.on_publish(good) is good
    with pytest.raises(ConfigurationError, match="already"):
        rule.on_publish(good)


class Abandoned(BaseException):
    """As some libraries end what they do."""


async def broken_session() -> AsyncIterator[str]:
    raise asyncio.CancelledError
    yield ""


def test_whatever_a_handler_raises_its_client_is_answered() -> None:
    """An awaited task that was cancelled, `sys.exit` in a library: an answer, and later messages are handled."""
    hub = Hub()

    @hub.channel("room:{room}")
    async def room(room: str) -> bool:
        return True

    @room.on_publish
    async def said(room: str, message: Any) -> Any:
        if message == "awaits":
            other = asyncio.ensure_future(asyncio.sleep(60))
            other.cancel()
            await other
        if message in ERRORS:
            raise ERRORS[message]
        return message

    @hub.rpc("broken")
    async def broken(session: Annotated[str, Depends(broken_session)]) -> None: ...

    @hub.rpc("exhausted")
    def exhausted() -> None:
        next(iter(()))

    async def main() -> None:
        async with served(hub) as base, Client(f"{base}/connection/websocket?user=ann", seconds=5) as client:
            for message in (*ERRORS, "awaits"):
                with pytest.raises(TidewireError, match="internal server error"):
                    await client.publish("room:1", message)
                await client.publish("room:1", "hello")
            for name in ("broken", "exhausted"):
                with pytest.raises(TidewireError, match="internal server error"):
                    await client.rpc(name)

    asyncio.run(main())


def test_a_function_that_fails_when_it_is_cancelled_holds_no_end_up() -> None:
    """As one whose transaction cannot be rolled back: the server still ends."""
    hub = Hub()
    begun = asyncio.Event()

    @hub.on("connected")
    async def connected() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("no transaction is open")

    async def main() -> None:
        async with served(hub) as base, Client(f"{base}/connection/websocket?user=ann", seconds=5):
            await begun.wait()

    asyncio.run(asyncio.wait_for(main(), 20))


ERRORS = {"cancelled": asyncio.CancelledError(), "exit": SystemExit(2), "abandoned": Abandoned()}
