"""Faults on purpose, by calls: what is missed comes back, once each, and nobody can do it in production."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from helpers.hubs import Application, code_of, receive, run, serving
from helpers.stores import start_redis
from tidewire import Hub, Limits
from tidewire.backends.checked import CheckedBroker
from tidewire.client import Client
from tidewire.errors import ConfigurationError
from tidewire.links.uvicorn import WebSocketProtocol
from tidewire.testing import wait_until

ROOM = "room:1"


def open_hub(url: str = "memory://", **options: Any) -> Hub:
    hub = Hub(url, **options)

    @hub.channel("room:{room}", history=100)
    async def room(room: str, user: str) -> bool:
        return user != "eve"

    return hub


@pytest.fixture
def development(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        with start_redis(tmp_path) as server:
            yield f"redis://127.0.0.1:{server.port}"
    else:
        yield "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'chat.db'}"


class Play:
    """A served playground: its calls, and readers of its clients."""

    def __init__(self, served: Application, http: httpx.AsyncClient) -> None:
        self.served = served
        self._http = http

    async def call(self, method: str, **body: Any) -> Any:
        answer = await self._http.post(f"/playground/api/{method}", json=body)
        assert answer.status_code == 200
        return answer.json()

    async def publish(self, count: int, first: int = 0) -> None:
        for number in range(first, first + count):
            assert "result" in await self.call("publish", channel=ROOM, data=number)

    @asynccontextmanager
    async def reader(self, user: str) -> AsyncIterator[list[int]]:
        got: list[int] = []

        async def read() -> None:
            async for publication in subscription:
                got.append(publication.data)

        async with Client(f"ws://127.0.0.1:{self.served.port}/playground/connection?user={user}") as client:
            subscription = client.subscribe(ROOM)
            await subscription.wait_subscribed()
            reading = asyncio.create_task(read())
            yield got
        await reading


@asynccontextmanager
async def playing(hub: Hub, **options: Any) -> AsyncIterator[Play]:
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.playground_router())
    async with (
        serving(hub, app, **options) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http,
    ):
        yield Play(served, http)


@pytest.mark.usefixtures("development")
def test_who_is_cut_off_gets_what_was_missed_once_each() -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub) as play, play.reader("ann") as ann, play.reader("bob") as bob:
            await play.publish(1)
            await wait_until(lambda: ann == bob == [0])
            cut = await play.call("cut", user="ann", seconds=2)
            assert len(cut["result"]["clients"]) == 1
            await play.publish(14, 1)
            await wait_until(lambda: len(bob) == 15)
            assert (len(ann), len(hub.node.registry.connections)) == (1, 2)  # nobody has noticed
            await wait_until(lambda: len(ann) == 15)
            assert ann == bob == list(range(15))
            assert hub.node.ended[1006] == 1  # no close frame came, nor went
            assert hub.node.opened == 3

    run(main())


@pytest.mark.usefixtures("development")
@pytest.mark.parametrize("ws", ["websockets-sansio", "hypercorn"])
def test_a_cut_on_another_server(ws: str) -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub, ws=ws) as play, play.reader("ann") as ann:
            await play.call("cut", user="ann", seconds=0.4)
            await play.publish(3)
            await wait_until(lambda: ann == [0, 1, 2])
            assert hub.node.opened == 2

    run(main())


@pytest.mark.usefixtures("development")
def test_who_is_frozen_gets_what_waits_in_order_and_is_slow_meanwhile() -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub) as play, play.reader("ann") as ann:
            await play.call("freeze", user="ann", seconds=0.8)
            for number in range(4):
                await play.call("publish", channel=ROOM, data=[number, "x" * 30_000])
            (row,) = (await play.call("connection_list", user="ann"))["result"]["connections"]
            assert (row["state"], ann) == ("slow", [])
            assert row["unsent"] > 120_000
            await play.publish(1, 4)
            await wait_until(lambda: len(ann) == 5)
            assert [one if isinstance(one, int) else one[0] for one in ann] == [0, 1, 2, 3, 4]
            assert hub.node.opened == 1

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("development")
def test_a_frozen_client_meets_the_policy_of_its_channel_and_the_stalled_writer() -> None:
    hub = open_hub(limits=Limits(outbox_messages=8, stalled_seconds=0.5))

    async def main() -> None:
        async with playing(hub) as play, play.reader("ann") as ann:
            await play.call("freeze", user="ann", seconds=3)
            for number in range(12):
                await play.call("publish", channel=ROOM, data=[number, "x" * 30_000])
            assert hub.statistics().slow_disconnects == 1
            await wait_until(lambda: hub.node.opened == 2, limit=8)  # let go, long before it would go on
            await wait_until(lambda: [one[0] for one in ann] == list(range(12)))  # type: ignore[index]

    run(main())


@pytest.mark.usefixtures("development")
def test_a_store_that_hangs_keeps_what_it_was_sent_and_delivers_it_in_order(url: str) -> None:
    hub = open_hub(url, limits=Limits(publish_seconds=0.5))

    async def main() -> None:
        async with playing(hub) as play, play.reader("ann") as ann:
            await play.publish(1)
            await play.call("hang", seconds=30)
            await wait_until(lambda: hub._hang is not None and hub._hang.is_on, what="the store of this node hangs")
            asked = [play.call("publish", channel=ROOM, data=n) for n in range(1, 15)]
            answers = await asyncio.gather(*asked, play.call("history", channel=ROOM, limit=10))
            assert all("the store" in answer["error"]["detail"] for answer in answers)
            assert ann == [0]
            assert hub._hang is not None
            hub._hang.end()  # at a moment that no busy machine misses
            await wait_until(lambda: sorted(ann) == list(range(15)))
            await play.publish(1, 15)
            await wait_until(lambda: ann[-1] == 15)
            assert hub.node.opened == 1

    run(main())


@pytest.mark.usefixtures("development")
def test_a_trial_reads_what_python_takes_for_two_lines() -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub) as play:
            trial = asyncio.create_task(play.call("trial", channel=ROOM, seconds=0.4))
            while not trial.done():
                await hub.publish(ROOM, "one\u2028two\x85three")
                await asyncio.wait([trial], timeout=0.02)
            assert trial.result()["result"]["recovered"] == 14

    run(main())


@pytest.mark.usefixtures("development")
def test_a_trial_counts_by_a_client_of_its_own(url: str) -> None:
    hub = open_hub(url)

    async def main() -> None:
        async with playing(hub) as play:
            found = await play.call("trial", channel=ROOM, seconds=0.4)
            assert found["result"] == {"missed": 14, "recovered": 14, "doubled": 0, "in_order": True, "complete": True}
            found = await play.call("trial", channel=ROOM, seconds=0.4, count=120)  # more than the history holds
            assert found["result"] == {"missed": 120, "recovered": 0, "doubled": 0, "in_order": True, "complete": False}
            for body, why in (({"channel": "other"}, "refused"), ({"channel": ROOM, "user": "eve"}, "refused")):
                assert why in (await play.call("trial", **body))["error"]["detail"]

    run(main())


@pytest.mark.usefixtures("development")
def test_a_short_hang_fails_nothing() -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub) as play, play.reader("ann") as ann:
            await play.call("hang", seconds=0.3)
            await play.publish(3)
            await wait_until(lambda: ann == [0, 1, 2])

    run(main())


@pytest.mark.usefixtures("development")
def test_what_cannot_be_done_is_told() -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub) as play, play.reader("ann"):
            for method, body, why in (
                ("kill", {"user": "ann"}, "--workers 2"),
                ("cut", {"user": "bob"}, "'bob' has no connection"),
                ("cut", {"client": "an"}, "'an' has no connection"),
                ("cut", {}, "not both"),
                ("cut", {"user": "ann", "client": "x"}, "not both"),
                ("cut", {"user": "ann", "seconds": 31}, "less than or equal to 30"),
                ("hang", {"seconds": 0}, "greater than 0"),
            ):
                answer = await play.call(method, **body)
                assert why in answer["error"]["detail"], method

    run(main())


@pytest.mark.parametrize("value", [None, "", "production", "Development", "development "])
def test_nothing_is_there_outside_development(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("FASTAPI_ENV", raising=False)
    else:
        monkeypatch.setenv("FASTAPI_ENV", value)
    hub = open_hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.playground_router(user=lambda: "root"))
    monkeypatch.setenv("FASTAPI_ENV", "development")  # too late

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http:
            for path in ("", "/tidewire.js", "/ui/css/base.css"):
                assert (await http.get(f"/playground{path}")).status_code == 404
            for method in ("cut", "freeze", "kill", "hang", "publish"):
                assert (await http.post(f"/playground/api/{method}", json={"user": "ann"})).status_code == 404
            with pytest.raises(Exception, match=r"403|404"):
                async with served.open("/playground/connection?user=ann"):
                    pass
            assert type(hub.node.broker) is CheckedBroker
            assert "Hanging" not in type(hub.node.broker.judged).__name__

    run(main())


def may(connection: HTTPConnection) -> str:
    if connection.cookies.get("session") != "ann":
        raise HTTPException(401)
    return "ann"


@pytest.mark.usefixtures("development")
@pytest.mark.parametrize(
    ("options", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"x-forwarded-for": "192.0.2.1"}, 403),
        ({}, {"host": "evil.example"}, 403),
        ({}, {"origin": "https://evil.example"}, 403),
        ({}, {"origin": "null"}, 403),
        ({}, {"sec-fetch-site": "cross-site"}, 403),
        ({"user": may}, {}, 401),
        ({"user": may}, {"cookie": "session=ann", "x-forwarded-for": "192.0.2.1"}, 200),
        ({"user": may}, {"cookie": "session=ann", "origin": "https://app.example.org"}, 403),
    ],
)
def test_nobody_else_may_play(options: dict[str, Any], headers: dict[str, str], status: int) -> None:
    hub = open_hub(origins=["https://app.example.org"])
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.playground_router(**options))

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http:
            for method in ("cut", "freeze", "kill", "hang", "publish", "connection_list"):
                answer = await http.post(
                    f"/playground/api/{method}", json={"user": "x", "seconds": 0.1}, headers=headers
                )
                assert answer.status_code == status, method
            if "sec-fetch-site" not in headers:  # a plain link may lead to the page
                assert (await http.get("/playground", headers=headers)).status_code == status
            code = await handshake(served.port, headers)
            assert (code == 101) == (status == 200)

    run(main())


async def handshake(port: int, headers: dict[str, str]) -> int:
    """Return the status of a handshake as a browser sends it."""
    lines = {"host": f"127.0.0.1:{port}", "upgrade": "websocket", "connection": "upgrade"}
    lines |= {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13", **headers}
    request = "GET /playground/connection?user=ann HTTP/1.1\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write((request + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


@pytest.mark.usefixtures("development")
def test_the_page_begins_with_a_channel_that_recovers_and_an_example_of_its_type() -> None:
    class Said(BaseModel):
        text: str
        by: int

    hub = Hub()

    @hub.channel("board/{game}/{player}", history=0)
    async def board(game: str, player: str, user: str) -> bool:
        return True

    @hub.channel("room:{room}", publishes=Said, history=10)
    async def room(room: str, user: str) -> bool:
        return True

    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.playground_router(prefix="/dev/play", pages=[("Home", "/")]), prefix="/internal")

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http:
            page = await http.get("/internal/dev/play")
            found = re.search('data-channels="([^"]*)"', page.text)
            assert found is not None
            channels = json.loads(html.unescape(found[1]))
            assert channels == [["room:demo", {"text": "text", "by": 1}], ["board/demo/demo", None]]
            assert '<a href="/">Home</a>' in page.text
            assert "unsafe" not in page.headers["content-security-policy"]
            for path in ("tidewire.js", "ui/js/playground/main.js", "ui/css/playground.css", "ui/icons.svg"):
                assert (await http.get(f"/internal/dev/play/{path}")).status_code == 200, path
            for path in ("ui/admin.html", "ui/../app.py", "ui/js/playground/%2e%2e/main.js", "ui/"):
                assert (await http.get(f"/internal/dev/play/{path}")).status_code == 404, path
            answer = await http.post("/internal/dev/play/api/trial", json={"channel": "room:1", "seconds": 0.3})
            assert "by: field required" in str(answer.json()["error"]).lower() or "missing" in str(answer.json())
            body = {"channel": "room:1", "seconds": 0.3, "data": {"text": "x", "by": 2}, "count": 3}
            answer = await http.post("/internal/dev/play/api/trial", json=body)
            assert answer.json()["result"]["recovered"] == 3

    run(main())


@pytest.mark.usefixtures("development")
def test_rules_decide_for_the_users_that_are_chosen() -> None:
    hub = open_hub()

    async def main() -> None:
        async with playing(hub) as play:
            with pytest.raises(Exception, match="permission"):
                async with play.reader("eve"):
                    pass

    run(main())


@pytest.mark.usefixtures("development")
@pytest.mark.parametrize("ws", [WebSocketProtocol, "websockets-sansio"], ids=["own", "plain"])
def test_a_connection_of_an_endpoint_is_held_like_any_other(ws: Any) -> None:
    hub = open_hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.playground_router())

    @app.websocket("/ws/{name}")
    async def endpoint(websocket: WebSocket, name: str) -> None:
        async with hub.connect(websocket, user=name) as connection:
            await connection.subscribe(ROOM, history=100, leave=f"{name} left")
            async for text in connection.iter_text():
                await connection.publish(ROOM, text)

    async def main() -> None:
        async with (
            serving(hub, app, ws=ws) as served,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http,
            served.open("/ws/ann") as ann,
            served.open("/ws/bob") as bob,
        ):
            play = Play(served, http)
            await wait_until(lambda: len(hub.node.registry.channels.get(ROOM, ())) == 2)
            await play.call("freeze", user="ann", seconds=0.5)
            for n in range(3):
                await bob.send(str(n))
            assert [await receive(one) for one in (bob, ann) for _ in range(3)] == ["0", "1", "2"] * 2
            await play.call("cut", user="ann", seconds=0.5)
            await bob.send("missed")
            assert await receive(bob) == "missed"
            assert await code_of(ann) in ((1006,) if ws is WebSocketProtocol else (1006, 1000))
            assert await receive(bob) == "ann left"

    run(main())


@pytest.mark.usefixtures("development")
def test_a_stream_of_http_is_not_held_and_the_answer_says_so() -> None:
    hub = open_hub()
    app = FastAPI(lifespan=hub.lifespan)
    app.include_router(hub.playground_router())
    app.include_router(hub.client_router(user=lambda: "ann"))

    async def main() -> None:
        async with serving(hub, app) as served, httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as http:
            body = b'{"id":1,"connect":{}}'
            async with (
                http.stream("POST", "/connection/http_stream", content=body) as stream,
                aclosing(stream.aiter_lines()) as lines,
            ):
                assert "connect" in await anext(lines)
                answer = await Play(served, http).call("cut", user="ann")
                assert "stream of HTTP" in answer["error"]["detail"]

    run(main())


def test_a_playground_is_made_before_its_hub_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")

    async def main() -> None:
        async with Hub() as hub:
            with pytest.raises(ConfigurationError, match="make its playground before"):
                hub.playground_router()

    run(main())
