"""The figures of all nodes while somebody looks: on every store, for those who may, and not a word for nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI, HTTPException
from starlette.requests import HTTPConnection

from helpers.hubs import run, serving
from tidewire import Hub
from tidewire.channels import LIVE
from tidewire.client import Client
from tidewire.errors import CommandError, LimitExceeded, NotPublished, PermissionDenied, StoreUnavailable
from tidewire.http_api import admin_router
from tidewire.http_api.node_models import status_of
from tidewire.messages import EphemeralPublication, Position, PublishRequest
from tidewire.observe import live
from tidewire.testing import wait_until


def user(connection: HTTPConnection) -> str | None:
    return connection.query_params.get("user") or connection.headers.get("x-user")


def may(connection: HTTPConnection) -> str:
    if connection.headers.get("x-user") != "root":
        raise HTTPException(403)
    return "root"


def worker(url: str) -> tuple[Hub, FastAPI]:
    hub = Hub(url)
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.client_router(user=user))
    app.include_router(hub.protocol_router("/plain/{channel}"))
    app.include_router(hub.admin_router(user=may))

    @hub.channel("room:{room}")
    async def room(room: int) -> bool:
        return True

    return hub, app


async def figures(client: httpx.AsyncClient) -> AsyncIterator[dict[str, Any]]:
    async with client.stream("GET", "/admin/live", headers={"x-user": "root"}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line:
                yield json.loads(line)


def test_each_node_tells_its_figures_while_somebody_looks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOKED", 0.5)
    monkeypatch.setattr(live, "_PAUSE", 0.1)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hubs, ports = [], []
            for _ in range(2):
                hub, app = worker(url)
                served = await stack.enter_async_context(serving(hub, app))
                hubs.append(hub)
                ports.append(served)
            clients = [await stack.enter_async_context(one.open("/plain/room:1")) for one in (*ports, ports[0])]
            await hubs[0].publish("room:1", "hello")
            published = [hub.statistics().published for hub in hubs]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[1].port}", timeout=10) as client:
                told: dict[str, dict[str, Any]] = {}
                async with aclosing(figures(client)) as lines:  # type: ignore[type-var]
                    async for line in lines:
                        told[line["node"]] = line
                        if len(told) == 2 and sum(one["connections"] for one in told.values()) == 3:
                            break
                assert set(told) == {hub.node.id for hub in hubs}
                first = told[hubs[0].node.id]
                assert (first["connections"], first["publications"]) == (2, 1)
                assert first["pause"] >= 0.1, "longer where a report takes long"
                # what is told is no traffic of the application, and is not kept
                report = status_of(hubs[1]._opened.nodes.reports.own())
                assert report["channels"] == 1
                assert (await hubs[0].node.broker.history(LIVE)).publications == ()
            assert [hub.statistics().published for hub in hubs] > published
            # nobody looks any more: within the time of a look, nothing is told
            tellers = [hub._opened.nodes.live for hub in hubs]
            await wait_until(lambda: not any(one._is_telling for one in tellers), limit=8)
            quiet = [hub.statistics().published for hub in hubs]
            await asyncio.sleep(2 * live._PAUSE)
            assert [hub.statistics().published for hub in hubs] == quiet
            del clients

    run(main())


def test_nobody_else_hears_the_nodes(tmp_path: Path) -> None:
    hub, app = worker("memory://")
    app.include_router(hub.api_router(key="the-key"))

    async def main() -> None:
        async with serving(hub, app) as served:
            base = f"http://127.0.0.1:{served.port}"
            async with Client(f"ws://127.0.0.1:{served.port}/connection/websocket?user=root") as client:
                with pytest.raises(PermissionDenied):
                    await client.subscribe(LIVE).wait_subscribed()
                with pytest.raises(CommandError):
                    await client.publish(LIVE, {})
                with pytest.raises(CommandError):
                    await client.history(LIVE)
            with pytest.raises(PermissionDenied):
                hub.listen(LIVE)
            async with httpx.AsyncClient(base_url=base, headers={"x-api-key": "the-key"}) as http:
                for method in ("publish", "subscribe", "history", "presence"):
                    body = {"channel": LIVE, "user": "root", "data": 1}
                    assert "error" in (await http.post(f"/api/{method}", json=body)).json(), method

    run(main())


def test_pages_that_look_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST", 1)

    async def main() -> None:
        async with Hub() as hub:
            teller = hub._opened.nodes.live
            first, second = teller.look(), teller.look()
            async with aclosing(first):
                assert json.loads(await anext(first))["node"] == hub.node.id
                with pytest.raises(LimitExceeded):
                    await anext(second)
            async with aclosing(teller.look()) as third:
                await anext(third)

    run(main())


def test_a_page_that_looks_asks_again_whether_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_router, "_LOOK_SECONDS", 0.0)

    async def main() -> None:
        hub, app = worker("memory://")
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client:
            async with asyncio.timeout(20):
                assert len([line async for line in figures(client)]) == 2

    run(main())


def test_a_silent_store_is_seen_within_a_second_before_any_call_of_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Hub() as hub:
            nodes, broker = hub._opened.nodes, hub.node.broker
            answers = asyncio.Event()
            publish = broker.publish

            async def silent(request: PublishRequest) -> Position:
                await answers.wait()
                return await publish(request)

            async with aclosing(nodes.live.look()) as looking:

                async def shows(degraded: bool) -> bool:
                    for _ in range(4):  # one every 0.4 s; where the loop is late, lines and waits are late alike
                        if json.loads(await anext(looking))["degraded"] is degraded:
                            return True
                    return False

                assert not json.loads(await anext(looking))["degraded"]
                assert not json.loads(await anext(looking))["degraded"]
                monkeypatch.setattr(broker, "publish", silent)
                assert await shows(True)
                with pytest.raises(StopIteration) as known:  # it waits for nothing
                    nodes.reports.all().send(None)
                assert [report.degraded for report in known.value.value] == [True]
                answers.set()
                assert await shows(False)
                assert [report.degraded for report in await nodes.reports.all()] == [False]
                assert not hub.degraded

    run(main())


def test_a_node_that_nobody_looks_at_finds_out_by_itself_that_its_store_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has asked once, as Prometheus does, is told the truth the next time, and waits for nothing."""

    async def main() -> None:
        async with Hub() as hub:
            reports, broker = hub._opened.nodes.reports, hub.node.broker
            publish = broker.publish

            async def away(request: PublishRequest) -> Position:
                raise NotPublished("away")

            monkeypatch.setattr(broker, "publish", away)
            assert [report.degraded for report in await reports.all()] == [True]
            monkeypatch.setattr(broker, "publish", publish)
            await wait_until(lambda: not reports.own().degraded, limit=5)
            assert not hub.degraded

    run(main())


def test_a_page_that_comes_while_the_store_is_away_sees_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Hub() as hub:

            async def away(channel: str) -> Position:
                raise StoreUnavailable("away")

            monkeypatch.setattr(hub.node.broker, "subscribe", away)
            async with aclosing(hub._opened.nodes.live.look()) as looking:
                lines = [json.loads(line) async for line in looking]
            assert [line["node"] for line in lines] == [hub.node.id]

    run(main())


def test_the_other_nodes_are_told_while_the_store_is_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are heard by the store alone: a page that comes now, and one that had given them up, know of them."""
    monkeypatch.setattr(live, "_TAKEN", 0.1)

    async def main() -> None:
        async with Hub(url) as here, Hub(url) as there:
            nodes = here._opened.nodes

            async def tell(looking: AsyncIterator[bytes], node: str, *, degraded: bool = False) -> None:
                """Take lines until one is that of a node; raises StopAsyncIteration where the stream ends."""
                async with asyncio.timeout(15):
                    while (line := json.loads(await anext(looking)))["node"] != node or line["degraded"] != degraded:
                        pass

            async def away(request: PublishRequest) -> Position:
                raise NotPublished("away")

            async def nothing() -> float:
                return 0.1

            async with aclosing(nodes.live.look()) as looking:
                await tell(looking, there.node.id)
                monkeypatch.setattr(there._opened.nodes.live, "_say", nothing)
                monkeypatch.setattr(here.node.broker, "publish", away)
                await tell(looking, here.node.id, degraded=True)
                await tell(looking, there.node.id)
            async with aclosing(nodes.live.look()) as looking:
                lines = [json.loads(await anext(looking)) for _ in range(2)]
                assert [line["node"] for line in lines] == [here.node.id, there.node.id]

    run(main())


def test_a_node_that_said_nothing_before_the_store_was_away_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_SILENT", 0.0)

    async def main() -> None:
        async with Hub() as hub:
            teller = hub._opened.nodes.live
            said = EphemeralPublication(LIVE, 0, 0, "", 0.0, b"{}", sender="ended")
            assert teller._last_words(said) == []
            teller._line()
            assert teller._last_words() == []
            teller._is_away = True
            assert teller._last_words() == []
            assert teller._last_words(said) == []
            assert teller._last_words() == [b"{}"]

    run(main())


def test_a_page_shows_of_other_nodes_what_metrics_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looked before the store was away, but somebody had asked the nodes."""

    async def main() -> None:
        async with Hub() as hub:
            reports, teller = hub._opened.nodes.reports, hub._opened.nodes.live
            other = msgspec.structs.replace(reports.own(), node="other")
            survey = [{"other": [msgspec.json.encode(other)]}, {}]

            async def ask(*_: object, **__: object) -> dict[str, list[bytes]]:
                if not survey:
                    raise StoreUnavailable("away")
                return survey.pop(0)

            monkeypatch.setattr(reports._survey, "ask", ask)
            assert [one.node for one in await reports.all()] == [hub.node.id, "other"]
            assert [one.node for one in await reports.all()] == [hub.node.id], "it did not answer"
            # neither did the store: it was away already, when the node was to answer
            assert [one.node for one in await reports.all()] == [hub.node.id, "other"]
            looking = teller.look()
            lines = [json.loads(await anext(looking)) for _ in range(2)]
            await looking.aclose()
            assert [line["node"] for line in lines] == [hub.node.id, "other"]
            assert lines[1]["pause"] == live._PAUSE

    run(main())


def test_a_report_that_takes_long_is_told_seldom() -> None:
    async def main() -> None:
        async with Hub() as hub:
            teller = hub._opened.nodes.live
            own = teller._figures

            def slow() -> dict[str, Any]:
                end = asyncio.get_running_loop().time() + 0.03
                while asyncio.get_running_loop().time() < end:
                    pass
                return own()

            teller._figures = slow
            async with aclosing(teller.look()) as looking:
                assert json.loads(await anext(looking))["pause"] >= 1.5

    run(main())


def test_a_node_that_closes_while_somebody_looks_says_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Hub() as hub:
            looking = hub._opened.nodes.live.look()
            await anext(looking)
        await looking.aclose()

    run(main())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
