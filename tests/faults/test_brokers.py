"""A store that is killed, hangs, or is out of reach: publishing says so at once, clients stay, nobody is restarted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.serving import Server
from engine.support import run
from helpers.ledger import Ledger, check
from helpers.stores import Daemon

from .crowd import CHANNEL, ApiPublisher, Crowd, census
from .network import namespace
from .serving import serving, store

SERVERS = ("redis", "postgres", "nats")
slow = pytest.mark.slow


@contextlib.asynccontextmanager
async def undisturbed(server: Server, crowd: Crowd) -> AsyncIterator[None]:
    """Let a store be away inside of the block; the same clients and workers must be there afterwards."""
    before, workers, people = await census(server), server.worker_pids(), await crowd.present()
    await crowd.presence_is_true(5)
    async with crowd.publishing():
        await crowd.succeeds()
        yield
        await crowd.readiness(200, 20)
        await crowd.succeeds()
    await crowd.check()
    await crowd.presence_is_true(15)
    assert await crowd.present() == people, "nobody had to connect again"
    assert server.worker_pids() == workers, server.log()
    await crowd.nothing_is_left(before)


@pytest.mark.parametrize("name", ["redis", pytest.param("postgres", marks=slow), pytest.param("nats", marks=slow)])
def test_killed_and_started_again(tmp_path: Path, name: str) -> None:
    with store(name, tmp_path) as used, serving(tmp_path / "run", used.url) as server:
        daemon = used.daemon
        assert daemon is not None

        async def scenario() -> None:
            crowd = Crowd(server, followers=6, chatters=2, has_holes=used.has_holes)
            async with crowd.following(), undisturbed(server, crowd):
                await asyncio.to_thread(daemon.kill)
                await crowd.publish_fails(4)
                await crowd.readiness(503, 15)
                await asyncio.to_thread(daemon.start)

        run(scenario(), 80)


@slow
@pytest.mark.parametrize("name", SERVERS)
def test_frozen_for_a_while(tmp_path: Path, name: str) -> None:
    with store(name, tmp_path) as used, serving(tmp_path / "run", used.url) as server:
        daemon = used.daemon
        assert daemon is not None

        async def scenario() -> None:
            crowd = Crowd(server, followers=6, chatters=2, has_holes=used.has_holes)
            async with crowd.following(), undisturbed(server, crowd):
                await _freeze(daemon, crowd, 30.0)

        try:
            run(scenario(), 100)
        finally:
            daemon.thaw()


async def _freeze(daemon: Daemon, crowd: Crowd, seconds: float) -> None:
    daemon.freeze()
    frozen = time.monotonic()
    await crowd.publish_fails(6)
    await crowd.readiness(503, 20)
    await asyncio.sleep(frozen + seconds - time.monotonic())
    daemon.thaw()


@pytest.mark.parametrize("name", ["redis", pytest.param("postgres", marks=slow), pytest.param("nats", marks=slow)])
def test_two_nodes_are_split_from_it_by_a_cut_network(tmp_path: Path, name: str) -> None:
    """Another node goes on publishing: no offset is given twice, and the split ones are shown all of it in the end."""
    with (
        namespace() as away,
        store(name, tmp_path, away.store) as used,
        serving(tmp_path / "there", used.url, host=away.host, prefix=away.prefix) as server,
        serving(tmp_path / "here", used.url, workers=1) as whole,
    ):

        async def scenario() -> None:
            crowd = Crowd(server, followers=6, chatters=2, has_holes=used.has_holes)
            publisher = ApiPublisher(whole, "whole")
            other = Ledger(publisher, CHANNEL)
            async with crowd.following(), undisturbed(server, crowd):
                await asyncio.to_thread(away.cut)
                async with other.publishing(1, 0.05):
                    await crowd.publish_fails(6)
                    await crowd.readiness(503, 20)
                    await other.succeeds(20)
                    await asyncio.to_thread(away.heal)
                    await crowd.readiness(200, 30)
                await other.succeeds(3)
            assert not other.failures
            assert not crowd.api.kept.keys() & other.kept.keys(), "an offset was given twice"
            for follower in crowd.followers:
                check(follower, crowd.api, other, channel=CHANNEL, has_holes=used.has_holes)
            await publisher.aclose()

        run(scenario(), 100)
