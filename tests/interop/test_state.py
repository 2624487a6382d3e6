"""A channel with a state, for published clients and ours: the state first, then exactly what came after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.serving import Cuttable
from clients.test_module import script
from contract.serving import Server
from interop.sdk import KINDS, driving
from tidewire.client import Client
from tidewire.messages import Position

pytestmark = pytest.mark.xdist_group("interop")

APP = Path(__file__).with_name("state_app.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("state"), app=APP).running() as server:
        yield server


def add(server: Server, count: int = 1) -> list[int]:
    """Add rows, and return all of them."""
    server.http.post("/orders", params={"count": count}).raise_for_status()
    rows: list[int] = server.http.get("/orders").json()["rows"]
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_published_clients(server: Server, kind: str) -> None:
    rows = add(server, 7)
    with driving(kind, server.port) as sdk:
        sdk.do("connect")
        sdk.next("connected")
        answer = sdk.subscribe("orders:1")
        assert (answer["data"], answer["recovered"]) == ({"rows": rows}, False)
        assert sdk.data(len(add(server)) - len(rows)) == [len(rows)]


@pytest.mark.parametrize("kind", KINDS)
def test_published_clients_that_load_the_state_themselves(server: Server, kind: str) -> None:
    current = server.http.get("/orders").json()
    rows = add(server, 3)
    with driving(kind, server.port) as sdk:
        sdk.do("connect")
        sdk.next("connected")
        sdk.do("subscribe", channel="orders:1", since={"offset": current["offset"], "epoch": current["epoch"]})
        answer = sdk.next("subscribed")
        assert answer["recovered"] is True
        assert sdk.data(3) == rows[-3:]


def test_our_python_client_over_a_cut(server: Server) -> None:
    async def main() -> None:
        shown: list[int] = []
        states = 0

        async def on_state(state: Any) -> None:
            nonlocal states
            states += 1
            shown[:] = state["rows"]

        async def read() -> None:
            async for publication in subscription:
                shown.append(publication.data)

        with Cuttable(server.port) as relay:
            async with Client(f"ws://127.0.0.1:{relay.port}/connection/websocket") as client:
                subscription = client.subscribe("orders:1", on_state=on_state)
                reading = asyncio.create_task(read())
                for missed in (0, 3, 20):  # none, some, and more than the channel keeps
                    await subscription.wait_subscribed()
                    relay.is_cut = True
                    relay.cut()
                    add(server, missed)
                    relay.is_cut = False
                    rows = add(server)
                    async with asyncio.timeout(20):
                        while shown != rows:
                            await asyncio.sleep(0.02)
                assert states >= 2
                reading.cancel()
                await asyncio.wait([reading])

    asyncio.run(main())


def test_our_python_client_loads_the_state_itself(server: Server) -> None:
    async def main() -> None:
        rows = add(server, 8)
        calls = 0

        async def get_state(channel: str) -> Position:
            nonlocal calls
            calls += 1
            if calls == 1:
                return Position(1, "an epoch that is over")
            current = server.http.get("/orders").json()
            return Position(current["offset"], current["epoch"])

        async with asyncio.timeout(20), Client(server.url("/connection/websocket")) as client:
            subscription = client.subscribe("orders:1", get_state=get_state)
            await subscription.wait_subscribed()
            assert calls == 2
            add(server)
            assert (await anext(subscription)).data == len(rows)

    asyncio.run(main())


def test_our_python_client_shows_nothing_older_behind_a_state_that_it_has_loaded(server: Server) -> None:
    """Publications that waited for a slow program came after the newer state, and put old values into its copy."""

    async def main() -> None:
        shown: list[int] = []
        calls = 0

        async def get_state(channel: str) -> Position:
            nonlocal calls
            current = server.http.get("/orders").json()
            shown[:] = current["rows"]
            calls += 1
            return Position(current["offset"], current["epoch"])

        with Cuttable(server.port) as relay:
            async with Client(f"ws://127.0.0.1:{relay.port}/connection/websocket") as client:
                subscription = client.subscribe("orders:1", get_state=get_state)
                await subscription.wait_subscribed()
                rows = add(server, 3)
                while (await anext(subscription)).data != rows[-3]:  # two of them wait
                    pass
                relay.refuse()
                add(server, 20)
                relay.admit()
                async with asyncio.timeout(20):
                    while calls < 2:
                        await asyncio.sleep(0.02)
                rows = add(server)
                assert (await anext(subscription)).data == rows[-1]
                assert shown == rows[:-1]

    asyncio.run(main())


def test_our_python_client_loads_a_state_that_takes_its_time_once(server: Server) -> None:
    """It was loaded by the WebSocket's opening and by the answer to the connect, and the later of them counted."""

    async def main() -> None:
        calls = 0

        async def get_state(channel: str) -> Position:
            nonlocal calls
            calls += 1
            current = server.http.get("/orders").json()
            await answered.wait()
            return Position(current["offset"], current["epoch"])

        async with asyncio.timeout(20), Client(server.url("/connection/websocket")) as client:
            answered = asyncio.Event()
            subscription = client.subscribe("orders:1", get_state=get_state)
            await client.history("orders:1", limit=1)  # is answered behind the connect
            answered.set()
            await subscription.wait_subscribed()
            rows = add(server)
            assert (await anext(subscription)).data == rows[-1]
            assert calls == 1

    asyncio.run(main())


def test_our_client_for_pages(server: Server) -> None:
    body = """
        const { current } = await told();
        const client = m.connect(url);
        const subscription = client.subscribe("orders:1", ({ data }) => say(data));
        subscription.on("subscribed", ({ data, wasRecovering, position }) => {
            say([data.rows.length, wasRecovering, position.offset]);
        });
        await told();
        subscription.unsubscribe();
        let calls = 0;
        const getState = async () => (++calls === 1 ? { offset: 1, epoch: "an epoch that is over" } : current);
        const again = client.subscribe("orders:1", ({ data }) => say(data), { getState });
        again.on("subscribed", ({ wasRecovering, recovered }) => say([calls, wasRecovering, recovered]));
        await told();
    """
    rows = add(server, 8)
    with script(server.url("/connection/websocket"), body) as running:
        current = server.http.get("/orders").json()
        running.tell({"current": {"offset": current["offset"], "epoch": current["epoch"]}})
        assert running.said() == [len(rows), False, current["offset"]]
        add(server)
        assert running.said() == len(rows)
        running.tell()
        assert running.said() == [2, False, True]
        assert running.said() == len(rows)
        add(server)
        assert running.said() == len(rows) + 1


def test_our_client_for_pages_aborts_a_state_that_it_loads_again(server: Server) -> None:
    """The page showed the answer to a call before the loss behind publications that came since."""
    body = """
        const signals = [];
        const getState = (channel, signal) => {
            signals.push(signal);
            return new Promise((resolve) => { if (signals.length > 1) told().then(resolve); else say("asked"); });
        };
        m.connect(url).subscribe("orders:1", ({ data }) => say(data), { getState }).on("subscribed", () => {
            say(signals.map(({ aborted }) => aborted));
        });
        await until(() => false, 60_000);
    """
    with (
        Cuttable(server.port) as relay,
        script(f"ws://127.0.0.1:{relay.port}/connection/websocket", body) as running,
    ):
        assert running.said() == "asked"
        relay.cut()
        current = server.http.get("/orders").json()
        running.tell({"offset": current["offset"], "epoch": current["epoch"]})
        assert running.said() == [True, False]
        rows = add(server)
        assert running.said() == rows[-1]
