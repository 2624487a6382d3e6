"""PostgreSQL killed, restarted, frozen, emptied, put back and cutting us off: nothing is lost in silence."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import asyncpg
import pytest

from engine.support import connect, run
from helpers.frozen import check_frozen_then_thawed
from helpers.ledger import Ledger, check, check_outage_told, received
from helpers.stores import Postgres, postgres_database, start_postgres
from tidewire.errors import ConfigurationError, NotPublished, StoreUnavailable
from tidewire.messages import Position
from tidewire.testing import wait_until

from .helpers import client_of, postgres_node


def test_killed_and_restarted_with_its_data_nothing_is_lost_and_nobody_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(server: Postgres) -> None:
        url = server.url()
        gap = {"gap_messages": 100_000, "gap_bytes": 100_000_000}  # who is back first may publish a lot
        async with postgres_node(url, publish_seconds=5.0, **gap) as node, postgres_node(url, **gap) as other:
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger, second = Ledger(node), Ledger(other)
            async with ledger.publishing(), second.publishing():
                await wait_until(lambda: len(ledger.kept) > 100)
                await asyncio.to_thread(server.kill)
                await ledger.fails()
                assert not near.link.is_closed
                await asyncio.to_thread(server.start)
                await ledger.succeeds(50)
                await second.succeeds(50)
            assert len({epoch for epoch, _ in (ledger.kept | second.kept)}) == 1
            assert all(seconds < 4 for _, seconds in ledger.failures)  # none waited for `publish_seconds`
            for client in (near, far):
                await received(client, ledger)
                await received(client, second)
                check(client, ledger, second)
            await wait_until(lambda: not node.tasks.degraded, 15)
            connections = [one.presence._connection for one in (node, other)]  # type: ignore[attr-defined]
            await wait_until(lambda: not any(connection.trouble for connection in connections), 15)

    caplog.set_level(logging.WARNING, "tidewire")
    with start_postgres() as server:
        run(scenario(server), 40)
    check_outage_told(caplog.records, f"PostgreSQL at 127.0.0.1:{server.port}/postgres", 2)


def test_restarted_by_its_operator_it_is_found_again_at_once() -> None:
    async def scenario(server: Postgres) -> None:
        async with postgres_node(server.url()) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            async with ledger.publishing():
                await wait_until(lambda: len(ledger.kept) > 50)
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                await ledger.succeeds(50)
            await received(client, ledger)
            check(client, ledger)

    with start_postgres() as server:
        run(scenario(server), 30)


def test_restarted_without_its_data_subscribers_are_told() -> None:
    async def scenario(server: Postgres) -> None:
        async with postgres_node(server.url()) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(20)
            before = ledger.last
            await asyncio.to_thread(server.kill)
            await ledger.fails()
            await asyncio.to_thread(server.fresh)
            await asyncio.to_thread(server.start)
            await ledger.succeeds(20)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch
            back = await connect(node)
            assert (await back.subscribe("a", since=before)).recovered is False
            again = await connect(node)
            answer = await again.subscribe("a", since=Position(ledger.last.offset - 5, ledger.last.epoch))
            assert (answer.recovered, len(answer.publications)) == (True, 5)

    with start_postgres() as server:
        run(scenario(server), 30)


@pytest.mark.slow  # test_operator.py puts older data back while all are connected
def test_a_copy_of_older_data_begins_a_new_epoch_and_gives_no_offset_twice() -> None:
    """Nothing in the data says that it is old; that this node has seen more says it."""

    async def scenario(server: Postgres) -> None:
        async with postgres_node(server.url()) as node, postgres_node(server.url()) as other:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.copy, "data", "backup")
            await asyncio.to_thread(server.start)
            await ledger.succeeds(20)
            seen = node.broker._delivery.seen  # type: ignore[attr-defined]
            await wait_until(lambda: node.broker._delivery.seen != seen)  # type: ignore[attr-defined]
            before = ledger.last
            await received(client, ledger)
            await asyncio.to_thread(server.kill)
            await ledger.fails()
            await asyncio.to_thread(server.copy, "backup", "data")
            await asyncio.to_thread(server.start)
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch
            await wait_until(lambda: not other.broker._connection.trouble)  # type: ignore[attr-defined]
            await ledger.publish()
            tops = [await one.broker.positions(["a", "b"]) for one in (node, other)]
            assert tops[0] == tops[1]
            assert tops[0]["a"] == ledger.last

    with start_postgres() as server:
        run(scenario(server), 40)


@pytest.mark.slow
def test_a_server_that_may_forget_commits_begins_a_new_epoch_after_a_restart() -> None:
    async def scenario(server: Postgres) -> None:
        async with postgres_node(server.url()) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            await received(client, ledger)
            await asyncio.to_thread(server.kill)
            await ledger.fails()
            await asyncio.to_thread(server.start)
            await ledger.succeeds(10)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert any("synchronous_commit" in text for text in await node.broker.advise())  # type: ignore[attr-defined]

    with start_postgres("synchronous_commit=off") as server:
        run(scenario(server), 30)


@pytest.mark.parametrize("seconds", [2.5, pytest.param(30.0, marks=pytest.mark.slow)])
def test_frozen_then_thawed(seconds: float) -> None:
    async def scenario(server: Postgres) -> None:
        async with postgres_node(server.url()) as node:
            await check_frozen_then_thawed(server, node, seconds)

    with start_postgres() as server:
        try:
            run(scenario(server), 60)
        finally:
            server.thaw()


def test_cut_off_again_and_again() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, postgres_node(url) as other, client_of(url) as operator:
            client = await connect(node, channel="a")
            ledger = Ledger(other)
            async with ledger.publishing():
                for _ in range(5):
                    await ledger.succeeds(20)
                    await operator.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name = 'tidewire' AND datname = current_database()"
                    )
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger)
            mine = (
                "SELECT count(*) FROM pg_stat_activity WHERE application_name='tidewire' AND datname=current_database()"
            )
            assert await operator.fetchval(mine) <= 16

    run(scenario(postgres_database()), 30)


def test_a_session_that_is_ended_between_two_steps_of_a_statement_is_a_failure_as_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare = asyncpg.Connection._get_statement
    ended: list[str] = []

    async def prepare_and_end(connection: Any, query: str, *arguments: Any, **options: Any) -> Any:
        statement = await prepare(connection, query, *arguments, **options)
        if len(ended) < 8:
            ended.append(query)
            connection.terminate()
        return statement

    async def scenario(url: str) -> None:
        async with postgres_node(url) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(3)
            monkeypatch.setattr(asyncpg.Connection, "_get_statement", prepare_and_end)
            with pytest.raises(StoreUnavailable):
                await node.presence.members("a")
            await wait_until(lambda: len(ended) == 8, 10)
            await ledger.succeeds(3)
            await received(client, ledger)
            check(client, ledger)

    run(scenario(postgres_database()), 30)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_lock_that_is_held_too_long_fails_in_time_and_only_in_its_channel() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url, publish_seconds=2.0) as node, client_of(url) as application:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(5)
            transaction = application.transaction()
            await transaction.start()
            await application.execute("SELECT 1 FROM tidewire_channels WHERE name = 'a' FOR UPDATE")
            start = time.monotonic()
            with pytest.raises(NotPublished, match="lock"):
                await node.publish("a", b"held up")
            assert time.monotonic() - start < 10
            assert not node.broker._connection.trouble  # type: ignore[attr-defined]
            await transaction.rollback()
            await ledger.publish(5)
            await received(client, ledger)
            check(client, ledger)

    run(scenario(postgres_database()))


def test_what_was_begun_while_it_is_away_works_when_it_is_back() -> None:
    async def scenario(server: Postgres) -> None:
        async with postgres_node(server.url()) as node:
            ledger = Ledger(node)
            await asyncio.to_thread(server.kill)
            await ledger.fails()
            with pytest.raises(StoreUnavailable):
                await connect(node, channel="a")
            with pytest.raises(StoreUnavailable):
                await node.presence.members("a")
            await asyncio.to_thread(server.start)
            await ledger.succeeds()
            client = await connect(node, channel="a")
            await ledger.publish(10)
            await received(client, ledger)
            await wait_until(lambda: not node.tasks.degraded, 15)

    with start_postgres() as server:
        run(scenario(server), 30)


def test_tables_that_an_operator_drops_are_made_again() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as operator:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            await received(client, ledger)
            await operator.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            await ledger.succeeds(10)
            assert ledger.were_sure
            await received(client, ledger)
            check(client, ledger, told=True)

    run(scenario(postgres_database()), 30)


def test_a_start_without_a_server_says_so_and_leaves_nothing() -> None:
    async def scenario(dead: str) -> None:
        for case in (dead, dead.replace("127.0.0.1", "localhost")):
            with pytest.raises(StoreUnavailable, match=r"cannot be reached .*; see that it runs there"):
                async with postgres_node(case):
                    pass

    with start_postgres() as server:
        dead = server.url()
    run(scenario(dead))


def test_no_part_of_a_url_that_may_be_a_password_is_shown() -> None:
    async def scenario() -> None:
        url = postgres_database()
        cases = [
            (url.replace("postgres@", "nobody:s3cret@"), "refused the login|does not exist|nobody"),
            ("postgresql://ann:s3cret/with@127.0.0.1:1/x", "cannot be used"),
            ("postgresql://ann:s3cret@127.0.0.1:port/x", "cannot be used"),
            (f"{url}_no?password=s3cret", "no such database"),
        ]
        for case, said in cases:
            with pytest.raises((ConfigurationError, StoreUnavailable), match=said) as caught:
                async with postgres_node(case):
                    pass
            assert "s3cret" not in str(caught.value)

    run(scenario())
