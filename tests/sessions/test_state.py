"""What the application holds, joined with its channel: a state, its position, and exactly what came after."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from websockets.asyncio.client import ClientConnection

from helpers.hubs import Application, receive, run, serving
from tidewire import RECOVERABLE, ConfigurationError, Hub, NotAvailable, PermissionDenied, Position, StateFailed
from tidewire.testing import wait_until


class Shop:
    """A table of the application, and its hub."""

    def __init__(self, *, history: int = 1_000, **limits: float) -> None:
        self.hub = Hub(limits=limits)
        self.rows: list[int] = []
        self.calls = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

        @self.hub.channel("orders:{shop}", history=history)
        async def orders(shop: int) -> bool:
            return True

        @orders.state
        async def current(shop: int) -> list[int]:
            self.calls += 1
            rows = list(self.rows)
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return rows

    async def add(self, row: int) -> None:
        self.rows.append(row)
        await self.hub.publish("orders:1", row)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Application]:
        app = FastAPI(lifespan=self.hub.lifespan)
        app.include_router(self.hub.client_router())
        async with serving(self.hub, app) as application:
            yield application


async def subscribe(client: ClientConnection, **fields: Any) -> Any:
    """Connect and subscribe by the Centrifuge protocol; return the answer."""
    await client.send('{"id":1,"connect":{}}')
    await client.send(json.dumps({"id": 2, "subscribe": {"channel": "orders:1", **fields}}))
    while True:
        message = json.loads(await receive(client))
        if message.get("id") == 2:
            return message.get("subscribe", message.get("error"))


async def pushed(client: ClientConnection, count: int) -> list[tuple[int, int]]:
    """Return the next publications: their offsets, and what they hold."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        for line in str(await receive(client)).split("\n"):
            pub = json.loads(line).get("push", {}).get("pub")
            if pub is not None:
                found.append((pub.get("offset", 0), pub["data"]))
    return found


PATH = "/connection/websocket"


def test_a_subscriber_gets_the_state_and_then_what_comes() -> None:
    async def main() -> None:
        shop = Shop()
        async with shop.open() as app, app.open(PATH) as client:
            await shop.add(1)
            answer = await subscribe(client)
            assert (answer["data"], answer["offset"]) == ([1], 1)
            assert not {"recovered", "was_recovering", "publications"} & set(answer)
            await shop.add(2)
            assert await pushed(client, 1) == [(2, 2)]

    run(main())


@pytest.mark.parametrize("history", [0, 2, 1_000])
def test_what_is_published_while_the_application_is_asked_comes_once(history: int) -> None:
    async def main() -> None:
        shop = Shop(history=history)
        async with shop.open() as app, app.open(PATH) as first, app.open(PATH) as second:
            await shop.add(1)
            shop.gate.clear()
            early = asyncio.create_task(subscribe(first))
            await wait_until(lambda: shop.calls == 1)
            for row in (2, 3, 4, 5):
                await shop.add(row)
            late = asyncio.create_task(subscribe(second))
            await wait_until(lambda: len(list(shop.hub.node.registry.channels["orders:1"].subscriptions())) == 2)
            await shop.add(6)
            shop.gate.set()
            for client, asked in ((first, early), (second, late)):
                answer = await asked
                rest = list(range(len(answer["data"]) + 1, 7))
                assert [row for _, row in await pushed(client, len(rest))] == rest
            assert shop.calls == (1 if history == 1_000 else 2)  # without history the first state is of no use

    run(main())


def test_a_client_whose_gap_cannot_be_filled_gets_a_fresh_state() -> None:
    async def main() -> None:
        shop = Shop(history=3)
        async with shop.open() as app:
            for row in range(10):
                await shop.add(row)
            epoch = (await shop.hub.state("orders:1")).position.epoch
            async with app.open(PATH) as client:
                answer = await subscribe(client, recover=True, offset=8, epoch=epoch)
                assert answer["recovered"] is True
                assert [pub["data"] for pub in answer["publications"]] == [8, 9]
                assert "data" not in answer
            for place in ({"offset": 2, "epoch": epoch}, {"offset": 10, "epoch": "another"}):
                async with app.open(PATH) as client:
                    answer = await subscribe(client, recover=True, **place)
                    assert (answer["data"], answer["offset"]) == (list(range(10)), 10)
                    assert not {"recovered", "was_recovering"} & set(answer)
            async with app.open(PATH) as client:  # as a published client with getState asks
                assert (await subscribe(client, recover=True, offset=2, epoch=epoch, flag=2))["code"] == 112

    run(main())


def test_many_who_come_cost_one_question() -> None:
    async def main() -> None:
        shop = Shop()
        async with shop.hub as hub:

            async def read() -> Any:
                async with hub.listen("orders:1", state=True) as publications:
                    return publications.state

            await shop.add(1)
            assert await asyncio.gather(*(read() for _ in range(2_000))) == [[1]] * 2_000
            assert shop.calls == 1

    run(main())


def test_a_state_that_fails_fails_those_who_wait_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        shop = Shop()
        async with shop.open() as app, app.open(PATH) as first, app.open(PATH) as second:
            shop.error = OSError("the database is away")
            with caplog.at_level(logging.ERROR, "tidewire"):
                answer = await subscribe(first)
            assert (answer["code"], answer["temporary"]) == (100, True)
            assert [record.exc_info is not None for record in caplog.records if "the state of" in record.message] == [
                True
            ]
            with pytest.raises(StateFailed):
                await shop.hub.state("orders:1")
            shop.error = HTTPException(403, "closed")
            assert (await subscribe(second))["code"] == 103
            with pytest.raises(PermissionDenied, match="closed"):
                await shop.hub.state("orders:1")
            shop.error = None
            assert (await shop.hub.state("orders:1")).value == []
            await first.send('{"id":2,"subscribe":{"channel":"orders:1"}}')
            assert json.loads(await receive(first))["subscribe"]["data"] == []

    run(main())


def test_a_crowd_that_comes_back_to_a_failure_does_not_ask_each_time(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        shop = Shop()
        shop.error = OSError("the database is away")
        async with shop.hub as hub:

            async def ask() -> None:
                with pytest.raises(StateFailed):
                    await hub.state("orders:1")

            began = asyncio.get_running_loop().time()
            for _ in range(200):  # each comes when the one before has been answered
                await ask()
            seconds = asyncio.get_running_loop().time() - began
            assert shop.calls <= 8 + seconds / 0.5 + 1
            assert caplog.text.count("the database is away") == 1
            shop.error = None
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(StateFailed):
                        assert (await hub.state("orders:1")).value == []
                        break
                    await asyncio.sleep(0.05)

    run(main())


class Row(dict[str, int]):
    """A value that can be followed."""


def test_a_state_is_held_no_longer_than_it_is_given() -> None:
    async def main() -> None:
        hub = Hub()
        made: list[weakref.ref[Row]] = []

        @hub.channel("rows:{n}", history=10)
        async def rows(n: int) -> bool:
            return True

        @rows.state
        async def current(n: int) -> Row:
            row = Row(n=n)
            made.append(weakref.ref(row))
            return row

        async with hub:
            for n in range(20):  # as one client that subscribes to many channels
                await hub.state(f"rows:{n}")
            for _ in range(20):  # and to a channel that is busy
                await hub.publish("rows:0", 1)
                await hub.state("rows:0")
            await wait_until(lambda: all(row() is None for row in made), limit=10.0)

    run(main())


def test_a_state_that_takes_too_long_is_given_up() -> None:
    async def main() -> None:
        shop = Shop(state_seconds=0.05)
        shop.gate.clear()
        async with shop.hub as hub:
            with pytest.raises(StateFailed):
                await hub.state("orders:1")
            assert hub.statistics().limits_reached["state_seconds"] == 1

    run(main())


def test_a_state_is_made_in_the_context_of_nobody_who_asks() -> None:
    async def main() -> None:
        user: ContextVar[str] = ContextVar("user", default="nobody")
        hub = Hub()

        @hub.channel("board:{board}")
        async def board(board: str) -> bool:
            return True

        @board.state
        def current(board: str) -> str:
            return user.get()

        async with hub:
            user.set("ann")
            assert (await hub.state("board:1")).value == "nobody"

    run(main())


def test_a_subscriber_that_goes_while_it_waits_leaves_nothing() -> None:
    async def main() -> None:
        shop = Shop()
        shop.gate.clear()
        async with shop.hub as hub:
            waiting = [asyncio.create_task(hub.state("orders:1")) for _ in range(2)]
            await wait_until(lambda: shop.calls == 1)
            waiting[0].cancel()
            await asyncio.wait([waiting[0]])
            shop.gate.set()
            assert (await waiting[1]).value == []

    run(main())


def test_an_endpoint_sends_the_state_before_what_comes() -> None:
    async def main() -> None:
        shop = Shop()

        async def endpoint(websocket: WebSocket, since: str = "") -> None:
            async with shop.hub.connect(websocket) as connection:
                place = Position.parse(since) if since else None
                subscribed = await connection.subscribe("orders:1", since=place)
                shop.rows.append(2)
                await connection.send_json([subscribed.state, subscribed.recovered, str(subscribed.position)])
                await connection.wait_closed()

        async with serving(shop.hub, endpoint) as app:
            await shop.add(1)
            shop.gate.clear()
            async with app.open() as client:
                await wait_until(lambda: shop.calls == 1)
                await shop.hub.publish("orders:1", 2)
                shop.gate.set()
                state, recovered, place = json.loads(await receive(client))
                assert (state, recovered) == ([1], None)
                assert json.loads(await receive(client)) == 2
            async with app.open(f"/?since={place}") as client:
                assert json.loads(await receive(client)) == 2
                assert json.loads(await receive(client))[:2] == [None, True]

    run(main())


def test_a_protocol_with_answers_tells_the_state_in_its_own() -> None:
    """No answer came at all: neither state nor position, nor that what was missed is gone."""

    async def main() -> None:
        shop = Shop(history=2)

        async def endpoint(websocket: WebSocket, since: str = "") -> None:
            async with shop.hub.connect(websocket, protocol=RECOVERABLE) as connection:
                await connection.subscribe("orders:1", since=since or None)
                await connection.wait_closed()

        async with serving(shop.hub, endpoint) as app:
            for row in (1, 2, 3):
                await shop.add(row)
            here = await shop.hub.position("orders:1")
            fresh = {"channel": "orders:1", "recovered": False, "position": str(here), "state": [1, 2, 3]}
            recovered = {"channel": "orders:1", "recovered": True, "position": str(here)}
            for since, answer in (("", fresh), (f"{here.epoch}:0", fresh), (str(here), recovered)):
                async with app.open(f"/?since={since}") as client:
                    assert json.loads(await receive(client)) == answer

    run(main())


def test_a_state_and_a_stream_over_http_are_one() -> None:
    async def main() -> None:
        shop = Shop()
        async with shop.hub as hub:
            await shop.add(1)
            current = await hub.state("orders:1")
            assert (current.value, current.data) == ([1], b"[1]")
            await shop.add(2)
            async with hub.listen("orders:1", since=str(current.position)) as publications:
                assert publications.recovered is True
                assert (await anext(publications)).json() == 2
            with pytest.raises(NotAvailable, match="no state"):
                await hub.state("news")

    run(main())


def test_a_state_takes_the_pattern_and_dependencies_of_nobody() -> None:
    hub = Hub()

    def session() -> str:
        return "a session"

    async def current_user(user: str) -> str:
        return user

    @hub.channel("orders:{shop}")
    async def orders(shop: int) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="'user', but it is the same for all"):

        @orders.state
        async def of_user(shop: int, user: str) -> None: ...

    with pytest.raises(ConfigurationError, match="'user', but it is the same for all"):

        @orders.state
        async def of_dependency(shop: int, name: str = Depends(current_user)) -> None: ...

    @orders.state
    def current(shop: int, database: str = Depends(session)) -> list[Any]:
        return [shop, database]

    assert current(1, "another") == [1, "another"]
    with pytest.raises(ConfigurationError, match="state already"):

        @orders.state
        async def again(shop: int) -> None: ...

    async def main() -> None:
        async with hub:
            assert (await hub.state("orders:7")).value == [7, "a session"]

    run(main())


def test_a_state_that_json_has_not_is_the_applications_fault(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()

    @hub.channel("a")
    async def rule() -> bool:
        return True

    @rule.state
    async def current() -> object:
        return object()

    async def main() -> None:
        async with hub:
            with pytest.raises(StateFailed):
                await hub.state("a")
            assert "the state of channel 'a' cannot be made: a value of type object cannot be sent" in caplog.text
            assert "Traceback" not in caplog.text

    run(main())


@pytest.mark.parametrize("shown", [[0, 1], {"rows": [0, 1]}])
def test_rows_that_can_be_read_once_are_there_for_everybody(shown: Any) -> None:
    """Clients got them, while readers and endpoints found that they had been taken, as an empty list."""
    hub = Hub()

    @hub.channel("a", history=10)
    async def rule() -> bool:
        return True

    @rule.state
    async def current() -> object:
        rows = iter([0, 1])
        return rows if shown == [0, 1] else {"rows": rows}

    async def main() -> None:
        async with hub:
            found = await hub.state("a")
            assert (json.loads(found.data), found.value) == (shown, shown)

    run(main())
