"""PostgreSQL behind the real PgBouncer: what holds in session mode, and the one sentence for the other modes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from contract.serving import Server
from engine.support import run
from helpers.ledger import Ledger
from helpers.stores import Daemon, Postgres, start_pgbouncer, start_postgres
from tidewire import Hub
from tidewire.engine.node import Node
from tidewire.errors import ConfigurationError, CutOff, PublishError, StoreUnavailable
from tidewire.messages import Position
from tidewire.testing import wait_until

from .helpers import postgres_node

MODES = pytest.mark.parametrize("mode", ["transaction", "statement"])
SENTENCE = "is behind a pooler that does not keep sessions, which LISTEN needs; set pool_mode = session there"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with start_postgres() as server:
        yield server


def pooled(postgres: Postgres, pooler: Daemon) -> str:
    return postgres.database().replace(f":{postgres.port}/", f":{pooler.port}/")


def test_session_mode_holds_over_the_death_of_the_pooler(postgres: Postgres) -> None:
    """Nothing acknowledged is lost or twice, and the order holds, on another node."""

    async def read(hub: Hub, kept: set[int], is_over: asyncio.Event) -> list[int]:
        found: list[int] = []
        since: Position | None = None
        while True:
            try:
                async with hub.listen("news", since=since) as publications:
                    async for publication in publications:
                        found.append(publication.json())
                        since = publication.position
                        if is_over.is_set() and found[-1] == max(kept):
                            return found
            except CutOff as error:
                since = error.position

    async def publish(hub: Hub, kept: set[int], pooler: Daemon) -> None:
        for number in range(300):
            if number in (100, 200):
                await asyncio.to_thread(pooler.kill)
                await asyncio.to_thread(pooler.start)
            with contextlib.suppress(PublishError):
                await hub.publish("news", number)
                kept.add(number)
            await asyncio.sleep(0.01)
        while True:  # the last one ends the reading
            with contextlib.suppress(PublishError):
                await hub.publish("news", 1_000)
                kept.add(1_000)
                return
            await asyncio.sleep(0.1)

    async def scene(url: str, pooler: Daemon) -> None:
        one, other = Hub(url), Hub(url)
        for hub in (one, other):
            hub.channel("news", history=1_000)
        kept: set[int] = set()
        is_over = asyncio.Event()
        async with asyncio.timeout(80), one.lifespan(FastAPI()), other.lifespan(FastAPI()):
            reading = asyncio.create_task(read(other, kept, is_over))
            await publish(one, kept, pooler)
            is_over.set()
            found = await reading
        assert len(kept) > 150
        assert found == sorted(set(found)), "in order, and none twice"
        assert kept <= set(found)

    with start_pgbouncer(postgres, "session") as pooler:
        asyncio.run(scene(pooled(postgres, pooler), pooler))


def test_a_mode_that_is_changed_later_is_an_outage_until_it_is_changed_back(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    def change(pooler: Daemon, old: str, new: str) -> None:
        file = pooler.folder / "pgbouncer.ini"
        file.write_text(file.read_text().replace(f"pool_mode = {old}", f"pool_mode = {new}"))
        assert pooler.process is not None
        pooler.process.send_signal(signal.SIGHUP)

    async def is_refused(node: Node) -> bool:
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidewire'")
        refused = 0
        for _ in range(20):
            try:
                await node.presence.members("a")
            except StoreUnavailable as error:
                refused += SENTENCE in str(error)
        return refused > 10

    async def scene(url: str, pooler: Daemon) -> None:
        async with postgres_node(url) as node:
            ledger = Ledger(node)
            await ledger.publish(3)
            change(pooler, "session", "transaction")
            await wait_until(lambda: is_refused(node), 60)
            change(pooler, "transaction", "session")
            await ledger.succeeds(3, 30)

    with start_pgbouncer(postgres, "session") as pooler:
        run(scene(pooled(postgres, pooler), pooler), 100)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@MODES
def test_modes_that_do_not_keep_sessions_are_refused_at_the_start(postgres: Postgres, mode: str) -> None:
    async def scene(url: str) -> None:
        hub = Hub(url)
        async with asyncio.timeout(20):
            with pytest.raises(ConfigurationError, match=SENTENCE):
                async with hub.lifespan(FastAPI()):
                    pass

    with start_pgbouncer(postgres, mode) as pooler:
        url = pooled(postgres, pooler)
        asyncio.run(scene(url))
        if mode == "transaction":  # sessions of others have none of our settings
            assert postgres.sql("SHOW enable_seqscan", "SHOW application_name", url=url) == "on\npsql"


def test_the_commands_say_it_without_a_traceback(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    with start_pgbouncer(postgres, "transaction") as pooler:
        url = pooled(postgres, pooler)
        server = Server(tmp_path_factory.mktemp("server"))
        for command in (["doctor", "--broker", url], ["serve", "--broker", url, "--port", str(server.port)]):
            done = server.tidewire(*command)
            said = " ".join((done.stdout + done.stderr).split())
            assert done.returncode != 0
            assert SENTENCE in said
            assert "Traceback" not in said
