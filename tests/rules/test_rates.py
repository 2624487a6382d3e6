"""Rates of an application: exact over the processes of a machine, the same for rules, calls and routes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from websockets.asyncio.client import connect

from contract.serving import free_port
from helpers.hubs import receive, serving
from helpers.stores import store_url
from rules.rated import application
from tidewire import ConfigurationError, Hub, RateLimited
from tidewire.client import Client
from tidewire.rules.base import Caller, Identity
from tidewire.rules.rate_limits import RateLimit
from tidewire.support import key_counts, shared_counts


class Clock:
    """The time of the buckets, which stands still until a test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        for module in (key_counts, shared_counts):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=time.sleep))


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql", "nats"])
def test_one_user_has_one_rate_over_connections_and_processes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate, burst = 40, 10

    async def main() -> None:
        hubs = [Hub(url) for _ in range(2)]
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for hub in hubs:
                app = application(hub, f"{rate}/s burst {burst} per user")
                server = await stack.enter_async_context(serving(hub, app))
                for _ in range(10):
                    client = Client(f"ws://127.0.0.1:{server.port}/connection/websocket?user=ann")
                    clients.append(await stack.enter_async_context(client))
            clock = Clock(monkeypatch)
            for seconds, expected in ((0, 10), (0.25, 10), (0.25, 10), (0.125, 5), (0.025, 1), (0, 0), (60, 10)):
                clock.now += seconds
                answers = await asyncio.gather(*(each.publish("room:1", 1) for each in clients), return_exceptions=True)
                refused = [answer for answer in answers if isinstance(answer, RateLimited)]
                assert {error.retry_after for error in refused} == {1 / rate}, refused
                assert len(answers) - len(refused) == expected, seconds
            # another user has a bucket of its own
            async with Client(f"ws://127.0.0.1:{server.port}/connection/websocket?user=bob") as bob:
                await bob.publish("room:1", 1)

    with store_url(kind, tmp_path) as url:
        asyncio.run(main())


@pytest.mark.slow  # it measures for twelve seconds
@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql", "nats"])
def test_ten_times_the_rate_over_two_workers_is_the_rate(kind: str, tmp_path: Path, capfd: Any) -> None:
    rate, seconds, connections = 20, 12.0, 20

    async def press(client: Client, until: float, accepted: list[float], asked: list[int]) -> None:
        while time.monotonic() < until:
            begun = time.monotonic()
            asked.append(1)
            with contextlib.suppress(RateLimited):
                await client.publish("room:1", 1)
                accepted.append(time.monotonic())
            await asyncio.sleep(max(0.0, begun + connections / (10 * rate) - time.monotonic()))

    async def main(base: str) -> tuple[int, float, int]:
        accepted: list[float] = []
        asked: list[int] = []
        async with contextlib.AsyncExitStack() as stack:
            made = [Client(f"{base}/connection/websocket?user=ann") for _ in range(connections)]
            clients = [await stack.enter_async_context(client) for client in made]
            begun = time.monotonic()
            await asyncio.gather(*(press(client, begun + seconds, accepted, asked) for client in clients))
        return len(accepted), rate * (accepted[-1] - begun) + burst, len(asked)

    burst = 5
    with store_url(kind, tmp_path) as url, running(url, f"{rate}/s burst {burst} per user", tmp_path) as base:
        accepted, expected, asked = asyncio.run(main(base))
    with capfd.disabled():
        print(f"\n{kind}: {accepted} of {asked} accepted, {expected:.1f} expected", flush=True)
    assert asked > 5 * expected
    assert accepted == pytest.approx(expected, rel=0.05)


@contextlib.contextmanager
def running(url: str, rate: str, folder: Path) -> Iterator[str]:
    """Run the application with two workers; gives the address of its WebSockets."""
    port = free_port()
    environment = os.environ | {"STORE": url, "RATE": rate, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "tidewire", "run", "rules.rated:app"]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [*command, "--workers", "2", "--port", str(port)], env=environment, stdout=out, stderr=out, cwd=folder
        )
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"http://127.0.0.1:{port}/connection/tidewire.js", timeout=1).raise_for_status()
                break
            assert process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < end, (folder / "out").read_text()
            time.sleep(0.1)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_rules_calls_and_routes_share_a_bucket() -> None:
    async def main() -> None:
        hub = Hub()
        async with serving(hub, application(hub, "1/h burst 1 per channel")) as server:
            base = f"127.0.0.1:{server.port}"
            async with (
                Client(f"ws://{base}/connection/websocket?user=ann") as ann,
                Client(f"ws://{base}/connection/websocket?user=bob") as bob,
                httpx.AsyncClient(base_url=f"http://{base}") as http,
            ):
                await ann.publish("said:1", 1)
                assert await ann.rpc("say", 1) == 1
                assert (await http.post("/say?user=ann")).status_code == 200
                refused = await http.post("/say?user=ann")
                assert refused.status_code == 429
                assert int(refused.headers["Retry-After"]) == 1800
                assert refused.json()["detail"]["retry_after"] == 1800  # of half an hour, less than a second has passed
                for work in (ann.publish("said:2", 1), ann.rpc("say", 1)):
                    with pytest.raises(RateLimited, match="2/h burst 3 per user") as raised:
                        await work
                    assert raised.value.retry_after == 1800
                await bob.publish("said:1", 1)
                # per channel: whoever it is
                await ann.publish("room:1", 1)
                with pytest.raises(RateLimited):
                    await bob.publish("room:1", 1)
                await bob.publish("room:2", 1)
                async with connect(f"ws://{base}/json/room:2?user=eve", proxy=None) as native:
                    await native.send("1")
                    error = json.loads(await receive(native))
                    assert (error["code"], error["retry_after"]) == ("rate_limited", 3600)
                codes = [(await http.post(f"/open/{room}")).status_code for room in ("a", "a", "b")]
                assert codes == [200, 429, 200]

    asyncio.run(main())


def test_a_client_that_is_refused_takes_nothing_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for counts in (key_counts.Counts(), shared_counts.SharedCounts.open("a key of this test")):
        limit = RateLimit("10/h burst 10 per channel, 1/min per user", "room", lambda counts=counts: counts)  # type: ignore[misc]
        ann, bob = (Caller(name, Identity(name)) for name in ("ann", "bob"))
        limit.take(ann, "room")
        for wait, told in ((0.0, 60.0), (55.5, 4.5), (0.0, 4.5), (4.0, 0.5)):
            clock.now += wait
            with pytest.raises(RateLimited) as raised:
                limit.take(ann, "room")
            assert raised.value.retry_after == told
        for _ in range(9):
            limit.take(bob, "room")
            clock.now += 60.0
        for number in range(10):
            limit.take(Caller(f"{number}", Identity(f"{number}")), "other")
        with pytest.raises(RateLimited):
            limit.take(bob, "other")
        limit.take(bob, "room")
        counts.aclose()


class Account:
    """A user of an application, as the object of a row: each request makes another."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def test_a_route_knows_a_user_by_the_name_alone() -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)
    users: list[Any] = []

    async def current_user() -> Any:
        return users[-1]

    @app.post("/", dependencies=[Depends(hub.rate("1/h per user").route(user=current_user))])
    async def route() -> None: ...

    async def main() -> None:
        async with hub, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            for who, status in (
                ("ann", 200),
                (Account(name="ann"), 429),
                (7, 200),
                (Account(name=7), 429),
                (None, 200),
            ):
                users.append(who)
                assert (await http.post("/")).status_code == status
            for who in (Account(id=7), {"sub": "ann"}):
                users.append(who)
                with pytest.raises(ConfigurationError, match="has no name"):
                    await http.post("/")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        ("1/h per user, 1/h per channel", ("same", "same"), ("ann", "room")),
        ("1/h per user, 1/hour", ("ann", "room"), ("bob", "room")),
        ("1/h per user per channel", ("ann 'b", "c"), ("ann", "'b c")),
    ],
)
def test_each_subject_has_a_bucket_of_its_own(text: str, one: tuple[str, str], other: tuple[str, str]) -> None:
    counts = key_counts.Counts()
    limit = RateLimit(text, "room", lambda: counts)
    for user, channel in (one, other):
        limit.take(Caller("c", Identity(user)), channel)
        with pytest.raises(RateLimited):
            limit.take(Caller("c", Identity(user)), channel)


@pytest.mark.parametrize(
    "text", ["", "5", "5/x", "0/s", "5/s burst 0", "5/s per planet", "5/s, ", "5/ms", "fast", 5, True]
)
def test_what_is_no_rate_is_refused_where_it_is_written(text: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate="):
        Hub().channel("room", rate=text)


@pytest.mark.parametrize(
    ("text", "rate", "burst"),
    [("5/s", 5, 5), ("0.5/s", 0.5, 1), ("60/min burst 3", 1, 3), ("10/10s", 1, 1), ("1/hour", 1 / 3600, 1)],
)
def test_texts_of_rates(text: str, rate: float, burst: float) -> None:
    (found,) = Hub().rate(text)._rates
    assert (found.rate, found.burst, found.per) == (pytest.approx(rate), burst, ("user",))
