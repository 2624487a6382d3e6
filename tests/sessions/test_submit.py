"""Publications that are handed over: in order, bounded, each with its own outcome, nothing told before it is kept."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed

from helpers.hubs import receive, run, serving
from tidewire import BadRequest, ChannelOptions, Hub, Limits, NotPublished, PublishUnconfirmed
from tidewire.backends.checked import CheckedBroker
from tidewire.messages import PublishRequest
from tidewire.testing import wait_until

ALL = {"*": ChannelOptions(history_size=10_000)}


def hub_on(path: Path, **limits: Any) -> Hub:
    return Hub(f"sqlite:///{path}/store.db", channels=ALL, limits=Limits(rate=1e6, burst=10**6, **limits))


def test_order_is_kept_with_whatever_the_endpoint_does_next(tmp_path: Path) -> None:
    async def main() -> None:
        hub = hub_on(tmp_path)

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                outcomes = []
                for number in range(300):
                    if number % 7 == 3:
                        await hub.publish("a", str(number))
                    elif number % 7 == 5:
                        assert await connection.publish("a", str(number))
                    else:
                        outcomes.append(await connection.submit("a", str(number)))
                assert all(await asyncio.gather(*outcomes))
                await connection.submit("a", "last")

        async with serving(hub, endpoint) as running:
            async with running.open() as client:
                async for _ in client:
                    pass
            texts = [publication.data.decode() for publication in (await hub.history("a")).publications]
        assert texts == [*map(str, range(300)), "last"]

    run(main())


def test_a_failure_in_the_middle_is_told_for_exactly_those_it_concerns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        hub = hub_on(tmp_path)
        publish = CheckedBroker.publish

        async def failing(self: CheckedBroker, request: PublishRequest) -> Any:
            if request.data == b"3":
                raise NotPublished("full")
            if request.data == b"5":
                raise PublishUnconfirmed("no answer")
            return await publish(self, request)

        monkeypatch.setattr(CheckedBroker, "publish", failing)
        found: list[list[bool]] = []

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                with pytest.raises(BadRequest):
                    await connection.submit("", "x")
                found.append(await asyncio.gather(*[await connection.submit("a", str(n)) for n in range(8)]))
                await connection.wait_closed()

        async with serving(hub, endpoint) as running, running.open() as client:
            assert await receive(client) == "error: not published: the store cannot keep this now; try again"
            assert (
                await receive(client)
                == "error: unconfirmed: the store did not answer in time, and may have kept this; try again"
            )
            await wait_until(lambda: found)
            kept = [publication.data for publication in (await hub.history("a")).publications]
        assert kept == [b"0", b"1", b"2", b"4", b"6", b"7"]
        assert found == [[True, True, True, False, True, False, True, True]]

    run(main())


def test_many_wait_for_the_store_together_and_the_limit_holds(tmp_path: Path) -> None:
    async def main() -> None:
        hub, seconds = hub_on(tmp_path, publishes_in_flight=16), {}
        most = [0]

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                for name, verb in (("publish", connection.publish), ("submit", connection.submit)):
                    began = time.perf_counter()
                    for number in range(300):
                        await verb("a", str(number))
                        most[0] = max(most[0], len(connection._in_flight or ()))
                    await connection.wait_published()
                    seconds[name] = time.perf_counter() - began

        async with serving(hub, endpoint) as running:
            async with running.open() as client:
                async for _ in client:
                    pass
            assert hub.statistics().limits_reached["publishes_in_flight"] > 0
        assert most[0] <= 16
        assert seconds["submit"] < seconds["publish"], seconds

    run(main())


def test_a_publication_that_is_handed_over_takes_no_turn_of_the_loop(tmp_path: Path) -> None:
    """With a turn for each, a room of a thousand is written to after each, and one publisher falls behind."""

    async def main() -> None:
        hub = hub_on(tmp_path)
        turns: list[bool] = []

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                asyncio.get_running_loop().call_soon(turns.append, True)
                outcomes = [await connection.submit("a", str(number)) for number in range(60)]
                turns.append(False)
                assert all(await asyncio.gather(*outcomes))

        async with serving(hub, endpoint) as running, running.open() as client:
            async for _ in client:
                pass
        assert turns == [False, True]

    run(main())


def test_what_nobody_keeps_is_no_publication_in_flight(tmp_path: Path) -> None:
    async def main() -> None:
        hub = Hub(f"sqlite:///{tmp_path}/store.db", channels={"a": ChannelOptions(ephemeral=True)})
        found: list[Any] = []

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                await connection.subscribe("a")
                outcomes = [await connection.submit("a", text) for text in ("1", "2")]
                assert [outcome.result() for outcome in outcomes] == [True, True]
                found.append(connection._in_flight)
                await connection.wait_closed()

        async with serving(hub, endpoint) as running, running.open() as client:
            assert [await receive(client), await receive(client)] == ["1", "2"]
        assert found == [None]

    run(main())


def test_a_block_that_is_cancelled_while_it_waits_for_its_publishes_ends_its_connection(tmp_path: Path) -> None:
    async def main() -> None:
        hub = hub_on(tmp_path)
        tasks: list[asyncio.Task[Any] | None] = []

        async def endpoint(websocket: WebSocket) -> None:
            never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            tasks.append(asyncio.current_task())
            try:
                async with hub.connect(websocket, user="ann") as connection:
                    held = await connection.submit("a", "x")
                    connection._publishes().add(never)
                    await held
                    await connection.send("handed over")
            finally:
                assert not hub.statistics().connections
                never.cancel()

        async with serving(hub, endpoint) as running, running.open() as client:
            assert await receive(client) == "handed over"
            (task,) = tasks
            assert task is not None
            task.cancel()
            with pytest.raises(ConnectionClosed) as raised:
                await receive(client)
            assert raised.value.rcvd is not None
            assert raised.value.rcvd.code == 1012

    run(main())


@pytest.mark.parametrize("kind", ["endpoint", "served"])
def test_a_burst_of_one_client_goes_out_while_it_is_handled(kind: str) -> None:
    async def main() -> None:
        hub = Hub("memory://", channels=ALL, limits=Limits(rate=1e6, burst=10**6))
        gate = asyncio.Event()

        async def endpoint(websocket: WebSocket) -> None:
            async with hub.connect(websocket) as connection:
                await connection.subscribe("a")
                await gate.wait()
                async for text in connection.iter_text():
                    await connection.submit("a", text)

        app: Any = endpoint
        if kind == "served":
            app = FastAPI(lifespan=hub.lifespan)
            app.include_router(hub.protocol_router("/{channel}"))
        async with serving(hub, app) as running, running.open("/" if kind == "endpoint" else "/a") as client:
            held = hub.node.fanout.turns
            texts = [str(number) for number in range(600)]
            for text in texts:
                await client.send(text)
            if kind == "endpoint":
                await (await client.ping())  # by now all of them have come
                held = hub.node.fanout.turns
            gate.set()
            assert [await receive(client) for _ in texts] == texts
            assert hub.node.fanout.turns - held >= 3  # and not all at the end

    run(main())
