"""Verbs of a hub that everybody asks for: over two nodes, and on every store where the store decides."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from starlette.requests import HTTPConnection

from helpers.hubs import code_of, receive, serving
from helpers.stores import postgres_database, start_nats, start_redis
from tidewire import ConfigurationError, Hub, NotAvailable, PermissionDenied, Position, VersionConflict
from tidewire.client import Client
from tidewire.testing import wait_until

STORES = ("memory", "sqlite", "redis", "postgresql", "nats")


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    kind = request.param
    if kind in ("redis", "nats"):
        with (start_redis if kind == "redis" else start_nats)(tmp_path / kind) as daemon:
            yield f"{kind}://127.0.0.1:{daemon.port}"
    elif kind == "postgresql":
        yield postgres_database()
    else:
        yield "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/store.db"


@contextlib.asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[Hub, Hub]]:
    async with Hub(url) as one:
        if url.startswith("memory"):
            yield one, one
        else:
            async with Hub(url) as other:
                yield one, other


def test_a_version_is_set_once_over_all_nodes(url: str) -> None:
    async def main() -> None:
        async with two(url) as hubs:
            assert (await hubs[0].publish("doc", 1, version=3)).offset == 1
            for version in (3, 2, 1):
                with pytest.raises(VersionConflict, match="version 3 already") as raised:
                    await hubs[1].publish("doc", 2, version=version)
                assert raised.value.newest == 3
            await hubs[1].publish("doc", "no version")
            results = await asyncio.gather(
                *(hubs[number % 2].publish("doc", number, version=4 + number % 3) for number in range(12)),
                return_exceptions=True,
            )
            kept = [result for result in results if isinstance(result, Position)]
            assert all(isinstance(result, Position | VersionConflict) for result in results), results
            page = await hubs[0].history("doc")
            versions = [json.loads(one.meta).get("version", 0) for one in page.publications if one.meta]
            assert versions == sorted(set(versions))
            assert len(versions) == len(kept) + 1
            # the same key: the same publication, whatever came of the first answer
            again = [await hub.publish("doc", "x", version=9, key="k") for hub in hubs]
            assert again[0] == again[1]

    asyncio.run(main())


def test_who_is_at_the_position_publishes(url: str) -> None:
    async def main() -> None:
        async with two(url) as hubs:
            start = await hubs[0].position("count")
            assert start.offset == 0
            sums = [0]

            async def increment(hub: Hub) -> None:
                while True:
                    position = await hub.position("count")
                    page = await hub.history("count", limit=1, reverse=True)
                    if page.top != position:
                        continue
                    value = json.loads(page.publications[0].data) if page.publications else 0
                    try:
                        await hub.publish("count", value + 1, version=position)
                    except VersionConflict:
                        await asyncio.sleep(0)
                    else:
                        return

            await asyncio.gather(*(increment(hubs[number % 2]) for number in range(10)))
            page = await hubs[1].history("count")
            assert [json.loads(one.data) for one in page.publications] == list(range(1, 11)), sums
            with pytest.raises(VersionConflict, match="not at"):
                await hubs[0].publish("count", 0, version=start)
            assert await hubs[0].position("count") == page.top

    asyncio.run(main())


def test_others_go_on_while_many_channels_are_published_to() -> None:
    async def main() -> None:
        async with Hub() as hub:
            names, turns = [str(number % 100) for number in range(5_000)], 0
            publishing = asyncio.create_task(hub.publish(names, 1))
            while not publishing.done():
                await asyncio.sleep(0)
                turns += 1
            assert [position.offset for position in publishing.result()] == [1 + n // 100 for n in range(5_000)]
            assert turns > 30

    asyncio.run(main())


def test_many_channels_are_published_to_in_one_call() -> None:
    async def main() -> None:
        async with Hub() as hub:
            await hub.publish("b", "before")
            positions = await hub.publish(["a", "b", "c"], {"all": 1}, key="k")
            assert [position.offset for position in positions] == [1, 2, 1]
            assert await hub.publish(("a", "b"), {"all": 1}, key="k") == positions[:2]
            assert await hub.publish([], 1) == []
            with pytest.raises(PermissionDenied):
                await hub.publish(["d", "$own"], 1)
            assert (await hub.position("d")).offset == 0
            for wrong in ({"version": 1}, {"connection": object()}):
                with pytest.raises(ConfigurationError):
                    await hub.publish(["a"], 1, **wrong)  # type: ignore[call-overload]
            for version in (0, -1, True, "1"):
                with pytest.raises(ConfigurationError, match="version="):
                    await hub.publish("a", 1, version=version)
            with pytest.raises(ConfigurationError):
                await hub.publish("a", 1, version=1, ephemeral=True)

    asyncio.run(main())


async def user(connection: HTTPConnection) -> str:
    return connection.query_params["user"]


def application(hub: Hub, endpoints: list[Any]) -> FastAPI:
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=user))
    app.include_router(hub.api_router(key="k"))

    @app.websocket("/own")
    async def own(websocket: WebSocket, user: str) -> None:
        async with hub.connect(websocket, user=user) as connection:
            with pytest.raises(NotAvailable):
                await connection.set_presence("room", 1)
            await connection.subscribe("room", presence=True, info={"typing": False})
            endpoints.append(connection)
            async for text in connection.iter_text():
                await connection.set_presence("room", json.loads(text))

    return app


def room(hub: Hub) -> None:
    @hub.channel("room", presence=True)
    async def rule(user: str) -> bool:
        return True


def test_one_connection_is_ended_unsubscribed_and_changed_from_another_node(tmp_path: Path) -> None:
    async def main() -> None:
        hub, other = (Hub(f"sqlite:///{tmp_path}/store.db") for _ in range(2))
        endpoints: list[Any] = []
        room(hub)
        async with other, serving(hub, application(hub, endpoints)) as server:
            base = f"ws://127.0.0.1:{server.port}/connection/websocket?user="
            async with (
                contextlib.AsyncExitStack() as stack,
                Client(base + "ann") as ann,
                server.open("/own?user=ann") as first,
            ):
                await wait_until(lambda: len(endpoints) == 1)
                second = await stack.enter_async_context(server.open("/own?user=ann"))
                subscription = ann.subscribe("room")
                await subscription.wait_subscribed()
                await wait_until(lambda: len(endpoints) == 2)
                sockets = dict(zip(endpoints, (first, second), strict=True))

                async def infos() -> dict[str, Any]:
                    members = await other.presence("room")
                    return {one.connection: json.loads(one.info) if one.info else None for one in members}

                await first.send('{"typing": true}')
                await wait_until(lambda: _has(infos, {"typing": True}))
                client = next(id_ for id_ in await infos() if id_ not in {one.id for one in endpoints})
                await other.set_presence(client, "room", {"typing": 2})
                await wait_until(lambda: _has(infos, {"chan_info": {"typing": 2}}))
                shown = [one.channel_info for one in await ann.presence("room") if one.client == client]
                assert shown == [{"typing": 2}]
                await other.set_presence("nobody", "room", 1)

                await other.disconnect(connection=endpoints[1].id, user="eve")  # it is not hers
                await other.disconnect(connection=endpoints[1].id, reason="enough")
                assert await code_of(sockets[endpoints[1]]) == 4503
                await wait_until(lambda: _count(other, 2))

                await other.unsubscribe("ann", "room")
                await wait_until(lambda: _count(other, 0))
                with pytest.raises(PermissionDenied):
                    await anext(subscription)
                await hub.publish("room", "unseen")
                await hub.send_to_user("ann", "still here")
                assert await receive(sockets[endpoints[0]]) == "still here"
            with pytest.raises(ConfigurationError):
                await other.disconnect()

    asyncio.run(main())


async def _has(infos: Any, wanted: Any) -> bool:
    return wanted in (await infos()).values()


async def _count(hub: Hub, number: int) -> bool:
    return len(await hub.presence("room")) == number


def test_the_http_api_publishes_a_version_once_too() -> None:
    async def main() -> None:
        hub = Hub()
        room(hub)
        async with serving(hub, application(hub, [])) as server:
            address = f"http://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(base_url=address, headers={"X-API-Key": "k"}) as http:
                call = {"channel": "room", "data": 1, "version": 1}
                answers = await asyncio.gather(*(http.post("/api/publish", json=call) for _ in range(5)))
                offsets = [answer.json()["result"].get("offset") for answer in answers]
                assert sorted(offsets, key=str) == [1, None, None, None, None]

    asyncio.run(main())
