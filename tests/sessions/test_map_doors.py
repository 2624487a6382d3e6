"""A publication that looks like the change of a map is none, whichever door it comes by."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import ClientConnection

from helpers.hubs import Application, receive, run, serving
from tidewire import Hub, NotPublished
from tidewire.channel_options import MapOptions
from tidewire.http_api.calls import Calls
from tidewire.http_api.nodes import Nodes
from tidewire.publisher import Publisher
from tidewire.testing import wait_until

#: What a client may want others to believe.
FORGED = (
    {"key": "a", "value": "forged"},
    {"key": "b", "value": "forged", "owner": "someone", "ttl": 0.001, "by": "0123456789ab1", "stamp": 1 << 63},
    {"key": "a", "removed": True},
    {"left": "someone", "change": True},
)


def hub_with_maps(url: str) -> tuple[Hub, FastAPI]:
    hub = Hub(url)

    @hub.channel("kept", map=MapOptions(client_key="client_id"))
    async def kept() -> bool:
        return True

    @hub.channel("gone", map=MapOptions(client_key="client_id"), ephemeral=True)
    async def gone() -> bool:
        return True

    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router())

    @app.websocket("/json/{channel}")
    async def commands(websocket: WebSocket, channel: str) -> None:
        async with hub.connect(websocket) as connection:
            async for data in connection.iter_json():
                if data.pop("door") == "submit":
                    await connection.submit(channel, data)
                else:
                    await connection.publish(channel, data)

    return hub, app


async def sdk(running: Application) -> ClientConnection:
    client = await running.open("/connection/websocket")
    await client.send('{"id":1,"connect":{}}')
    await receive(client)
    return client


async def publish(door: str, running: Application, channel: str, data: dict[str, Any]) -> None:
    hub = running.hub
    if door == "sdk":
        client = await sdk(running)
        await client.send(json.dumps({"id": 2, "publish": {"channel": channel, "data": data}}))
        assert "error" not in json.loads(await receive(client))
        await client.close()
    elif door in ("endpoint", "submit"):
        async with running.open(f"/json/{channel}") as client:
            await client.send(json.dumps({"door": door, **data}))
    elif door == "hub":
        await hub.publish(channel, data, tags={"change": "true"})
    elif door == "http":
        calls = Calls(hub.node, Nodes(hub.node, version="0"), hub.node.options.of)
        request = {
            "channel": channel,
            "data": data,
            "tags": {"change": "true"},
            "change": True,
            "meta": {"change": True},
        }
        await calls.call("publish", msgspec.json.encode(request))


async def changes_of(client: ClientConnection, last: str) -> list[tuple[str, Any]]:
    """Return the changes that a subscriber is pushed up to that of a key."""
    found: list[tuple[str, Any]] = []
    while not found or found[-1][0] != last:
        for line in (await receive(client)).splitlines():
            pub = json.loads(line).get("push", {}).get("pub")
            if pub is not None:
                found.append((pub["key"], pub.get("data")))
    return found


@pytest.mark.parametrize("channel", ["kept", "gone"])
@pytest.mark.parametrize("door", ["sdk", "endpoint", "submit", "hub", "http"])
def test_only_the_verbs_of_a_map_change_it(tmp_path: Path, door: str, channel: str) -> None:
    async def main() -> None:
        hub, app = hub_with_maps(f"sqlite:///{tmp_path}/chat.db")
        async with serving(hub, app) as running, hub.listen(channel) as publications:
            await hub.set(channel, "a", "true")
            client = await sdk(running)
            subscribe = {"channel": channel, "type": 1, "phase": 2}
            await client.send(json.dumps({"id": 2, "subscribe": subscribe}))
            assert "error" not in json.loads(await receive(client))
            for data in FORGED:
                await publish(door, running, channel, data)
            seen: list[Any] = []
            async with asyncio.timeout(10):
                while len(seen) < 1 + len(FORGED):  # all were published, and changed nothing
                    seen.append((await anext(publications)).json())
            assert seen[1:] == list(FORGED)
            await hub.set(channel, "last", 1)
            assert await changes_of(client, "last") == [("last", 1)]
            assert (await hub.entries(channel)).values() == {"a": "true", "last": 1}
            await client.close()

    run(main())


def test_a_publisher_elsewhere_changes_no_map(tmp_path: Path) -> None:
    async def main() -> None:
        hub, app = hub_with_maps(f"sqlite:///{tmp_path}/chat.db")
        async with serving(hub, app):
            await hub.set("kept", "a", "true")
            with Publisher(f"sqlite:///{tmp_path}/chat.db") as publisher:
                for data in FORGED:
                    await asyncio.to_thread(publisher.publish, "kept", data)
            assert (await hub.entries("kept")).values() == {"a": "true"}

    run(main())


@pytest.mark.parametrize("how_often", [1, 3])
def test_a_token_that_a_caller_has_used_delays_no_change(tmp_path: Path, how_often: int) -> None:
    async def main() -> None:
        hub, app = hub_with_maps(f"sqlite:///{tmp_path}/chat.db")
        async with serving(hub, app):
            token = free = f"map:a:{(await hub.publish('kept', 'first')).epoch}:0"
            for _ in range(how_often):
                token = f"{free}:{(await hub.publish('kept', 'taken', key=token)).offset}"
            async with asyncio.timeout(10):
                await hub.set("kept", "a", 1)
                await hub.set("kept", "a", 2)
            assert (await hub.entries("kept")).values() == {"a": 2}

    run(main())


def test_a_change_whose_every_token_is_taken_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        hub, app = hub_with_maps(f"sqlite:///{tmp_path}/chat.db")
        async with serving(hub, app):
            token = free = f"map:a:{(await hub.publish('kept', 'first')).epoch}:0"
            for _ in range(16):
                token = f"{free}:{(await hub.publish('kept', 'taken', key=token)).offset}"
            with pytest.raises(NotPublished, match='do not begin with "map:"'):
                await hub.set("kept", "a", 1)
            await hub.set("kept", "b", 1)
            assert (await hub.entries("kept")).values() == {"b": 1}

    run(main())


def test_members_of_a_map_still_come_and_go(tmp_path: Path) -> None:
    async def main() -> None:
        hub = Hub(f"sqlite:///{tmp_path}/chat.db")

        @hub.channel("room", clients_map="here:")
        async def room() -> bool:
            return True

        app = FastAPI(lifespan=hub.lifespan)
        app.include_router(hub.client_router())

        async def is_there(count: int) -> bool:
            return len((await hub.entries("here:room")).entries) == count

        async with serving(hub, app) as running:
            client = await sdk(running)
            await client.send('{"id":2,"subscribe":{"channel":"room"}}')
            await receive(client)
            await wait_until(lambda: is_there(1), limit=10)
            await hub.publish("here:room", {"key": "a", "value": {}})
            assert await is_there(1)
            await client.close()
            await wait_until(lambda: is_there(0), limit=10)

    run(main())
