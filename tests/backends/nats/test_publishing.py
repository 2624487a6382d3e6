"""Publishing more than NATS takes, and closing before all was delivered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.support import run
from helpers.ledger import open_files
from helpers.stores import Daemon, start_nats
from tidewire import Hub
from tidewire.backends.nats import publishing
from tidewire.errors import BadRequest, NotPublished, PublishUnconfirmed
from tidewire.messages import Position, PublishRequest
from tidewire.testing import wait_until

from .helpers import broker_on


def test_more_than_the_server_takes_in_time_fails_surely_and_costs_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "IN_FLIGHT", 1)

    async def scenario(server: Daemon) -> None:
        broker = broker_on(server, publish_seconds=1.0)
        await broker.start(lambda _: None)
        session = broker._connection.session
        calls = (broker.publish(PublishRequest("a", b"x")) for _ in range(20_000))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        kept = [answer for answer in answers if isinstance(answer, Position)]
        unsure = [answer for answer in answers if isinstance(answer, PublishUnconfirmed)]
        assert kept
        assert len(unsure) <= 20  # one of those that each look finds too late
        assert len(kept) + len(unsure) + sum(isinstance(answer, NotPublished) for answer in answers) == 20_000
        assert broker._connection.session is session
        await broker.aclose()

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_close_ends_everything_though_not_all_could_be_delivered(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        before = open_files()
        broker = broker_on(server, publish_seconds=0.2)
        await broker.start(lambda _: None)
        await broker.subscribe("a")
        stuck = asyncio.Event()

        async def never(_: object) -> None:
            await stuck.wait()

        subscription = broker._delivery._channels["a"].subscription
        assert subscription is not None
        subscription._cb = never  # type: ignore[assignment]  # what hangs is this node, not the server
        await asyncio.gather(*(broker.publish(PublishRequest("a", b"x")) for _ in range(3)))
        await broker.aclose()
        await wait_until(lambda: open_files() <= before, what="all descriptors are closed")

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)


def test_a_message_that_the_server_never_takes_is_its_callers_fault(tmp_path: Path) -> None:
    """One publication over `max_payload` was an outage of the store: `/readyz` said 503, for everybody."""

    async def scenario(server: Daemon) -> None:
        async with Hub(f"nats://127.0.0.1:{server.port}") as hub:
            await hub.publish("a", "first")
            with pytest.raises(BadRequest, match="max_payload"):
                await hub.publish("a", "x" * 2_000_000)
            assert not hub.degraded
            assert (await hub.publish("a", "last")).offset

    with start_nats(tmp_path) as server:
        run(scenario(server), 30)
