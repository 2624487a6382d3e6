"""Names at every door: the same ones are refused, in the same words, by the one module that judges them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import InvalidStatus

from helpers.hubs import serving
from tidewire import BadRequest, Hub, HubConnection, Identity
from tidewire.channel_options import ChannelOptions
from tidewire.channels import NAME_BYTES, check_channel, check_name, check_text, personal
from tidewire.rules.base import Grant
from tidewire.sessions.centrifuge import session_orders
from tidewire.testing import wait_until

#: Names of users and connections that no store can hold, with words of the refusal.
BAD = {
    "of another type": (7, "of type int"),
    "with a NUL": ("a\0b", "NUL"),
    "with half of a pair": ("\ud800", "surrogate"),
    "too long": ("é" * NAME_BYTES, "write a shorter one"),
}
#: Names of channels that nobody can have.
NO_CHANNEL = ["", " a", "a\n", "x" * 256, 7, None]


class Kind(str):
    """A string of another type, as those of a `str` enumeration are."""


@pytest.mark.parametrize("kind", BAD)
def test_a_name_that_no_store_can_hold_is_refused(kind: str) -> None:
    name, words = BAD[kind]
    with pytest.raises(BadRequest, match=words):
        check_name(name, "user")


def test_a_name_is_plain_text_of_limited_length() -> None:
    longest = "x" * NAME_BYTES
    assert check_name(longest, "user") == longest
    assert type(check_name(Kind("é"), "user")) is type(check_name(Kind("ann"), "user")) is str
    assert check_text("é" * NAME_BYTES, "key") == "é" * NAME_BYTES
    with pytest.raises(BadRequest, match="the limit is 1200"):  # a limit of characters may be larger
        check_channel("é" * 700, 1_000)


def test_an_object_in_place_of_a_name_is_not_shown() -> None:
    """The refusal may go to a client, and an application's user has more than a name."""

    class User:
        def __repr__(self) -> str:
            return "User(password='secret')"

    for check in (lambda: check_name(User(), "user"), lambda: check_channel(User(), 255)):
        with pytest.raises(BadRequest, match="of type User") as raised:
            check()
        assert "secret" not in str(raised.value)


def test_a_key_is_as_long_as_an_application_likes() -> None:
    """As it is by `send_to_user` and over the HTTP API: stores keep its hash, or all of it."""

    async def main() -> None:
        async with Hub() as hub:
            first = await hub.publish("room", "x", key="k" * 2_000)
            assert await hub.publish("room", "x", key="k" * 2_000) == first
            await hub.revoke(jti="é" * NAME_BYTES)

    asyncio.run(main())


def test_the_longest_user_is_the_same_at_every_door() -> None:
    """Its own channel has a longer name, which stores must hold too."""
    longest = "x" * (NAME_BYTES - len(personal("")))

    async def main() -> None:
        hub = Hub()

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket, user=longest) as connection:
                await connection.receive()

        async with serving(hub, endpoint) as app:
            async with app.open():
                await wait_until(lambda: hub.statistics().connections == 1)
                assert await hub.is_online(longest)
                for call in calls_about_users(hub, longest):
                    await call()
            for call in calls_about_users(hub, longest + "x", has_ids=False):
                with pytest.raises(BadRequest, match=r"user 'x+'… has \d+ bytes"):
                    await call()

    asyncio.run(main())


def calls_about_users(hub: Hub, user: Any, *, has_ids: bool = True) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    grant = Grant(ChannelOptions())
    about_ids: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: session_orders.disconnect(hub.node, "ann", client=user),
        lambda: session_orders.disconnect(hub.node, "ann", session=user),
    ]
    return [
        *(about_ids if has_ids else []),
        lambda: hub.send_to_user(user, "x"),
        lambda: hub.disconnect(user=user),
        lambda: hub.disconnect(user=user, connection="c"),
        lambda: hub.unsubscribe(user, "room"),
        lambda: hub.revoke(user=user),
        lambda: hub.inbox(user),
        lambda: hub.is_online(user),
        lambda: session_orders.disconnect(hub.node, user),
        lambda: session_orders.subscribe(hub.node, user, "room", grant),
        lambda: session_orders.unsubscribe(hub.node, user, "room"),
        lambda: session_orders.refresh(hub.node, user),
    ]


@pytest.mark.parametrize("kind", BAD)
def test_every_call_refuses_a_bad_user(kind: str) -> None:
    user, words = BAD[kind]

    async def main() -> None:
        async with Hub() as hub:
            for call in calls_about_users(hub, user):
                with pytest.raises(BadRequest, match=words):
                    await call()

    asyncio.run(main())


@pytest.mark.parametrize("channel", NO_CHANNEL, ids=repr)
def test_every_call_refuses_a_bad_channel(channel: Any) -> None:
    async def main() -> None:
        async with Hub() as hub:
            calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: hub.publish(channel, "x"),
                lambda: hub.history(channel),
                lambda: hub.position(channel),
                lambda: hub.remove_history(channel),
                lambda: hub.presence(channel),
                lambda: hub.users(channel),
                lambda: hub.state(channel),
                lambda: hub.unsubscribe("ann", channel),
                lambda: hub.set_presence("c", channel, None),
            ]
            for call in calls:
                with pytest.raises(BadRequest, match="channel name"):
                    await call()

    asyncio.run(main())


def test_the_inbox_of_a_user_with_a_long_name_is_read() -> None:
    """A user's name may be longer than a channel's, and have characters that a channel's may not."""

    async def main() -> None:
        async with Hub() as hub:
            for user in ("x" * 600, "ann\n"):
                await hub.send_to_user(user, "kept")
                assert [p.data for p in (await hub.inbox(user)).publications] == [b"kept"]
                assert not await hub.is_online(user)

    asyncio.run(main())


@pytest.mark.parametrize("user", [*BAD, "empty"])
def test_a_connection_is_given_no_bad_user_later(user: str) -> None:
    given, words = BAD.get(user, ("", "empty"))
    refused: list[str] = []

    async def main() -> None:
        hub = Hub()

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                for name in (given, Kind("ann")):
                    try:
                        await connection.identify(name)  # type: ignore[arg-type]
                    except BadRequest as error:
                        refused.append(str(error))
                assert type(connection.user) is str
                await connection.send(connection.user)

        async with serving(hub, endpoint) as app, app.open() as client:
            assert await client.recv() == "ann"

    asyncio.run(main())
    assert len(refused) == 1
    assert words in refused[0]


@pytest.mark.parametrize("kind", BAD)
def test_doors_of_clients_refuse_a_bad_user_with_400(kind: str) -> None:
    """An application's dependency may have it from its client: that is no error 500 of the application."""
    user, words = BAD[kind]

    async def main() -> None:
        hub = Hub()
        app = FastAPI(lifespan=hub.lifespan)
        app.include_router(hub.client_router(user=lambda: Identity(user)))
        held: list[HubConnection] = []

        @app.websocket("/mine")
        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket, user=Identity(user)) as connection:
                held.append(connection)

        async with serving(hub, app) as served, httpx.AsyncClient() as http:
            for path in ("/mine", "/connection/websocket", "/connection/uni_websocket"):
                with pytest.raises(InvalidStatus) as raised:
                    async with served.open(path):
                        pass
                assert raised.value.response.status_code == 400, path
                assert words in raised.value.response.body.decode(), path
            address = f"http://127.0.0.1:{served.port}/connection"
            for path in ("sse", "http_stream", "uni_sse", "uni_http_stream"):
                answer = await http.post(f"{address}/{path}", json={"id": 1, "connect": {}})
                assert (answer.status_code, words in answer.text) == (400, True), (path, answer.text)
        assert not held

    asyncio.run(main())


def test_the_channel_of_a_user_is_judged_as_its_user() -> None:
    for user, words in BAD.values():
        with pytest.raises(BadRequest, match=words):
            personal(user)
