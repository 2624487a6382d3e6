"""What an application publishes inside its own transaction: seen after its commit, in order, never lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from engine.support import connect, run
from helpers.ledger import Ledger, check, received
from helpers.stores import postgres_database
from tidewire import ChannelOptions, Hub
from tidewire.errors import BadRequest, ConfigurationError
from tidewire.messages import Format, PublishRequest
from tidewire.testing import wait_until

from .helpers import client_of, postgres_node

TESTS = Path(__file__).parents[2]
LONG = {"orders": ChannelOptions(history_size=1_000_000)}


def data_of(client: Any) -> list[str]:
    """Return what a client was given in channel a."""
    return [line.split(" ", 4)[4] for line in client.shown if line.startswith("p a ")]


def test_sql_publishes_at_commit_and_never_after_a_rollback() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, postgres_node(url) as other, client_of(url) as application:
            clients = [await connect(one, channel="a") for one in (node, other)]
            publish = "SELECT tidewire_publish('a', $1)"
            async with application.transaction():
                await application.execute(publish, '{"n": 1}')
                await application.execute(publish, '{"n": 2}')
                await node.publish("a", b"between")
                await wait_until(lambda: all(data_of(client) == ["between"] for client in clients))
            transaction = application.transaction()
            await transaction.start()
            await application.execute(publish, '{"n": "rolled back"}')
            await transaction.rollback()
            await application.execute(publish, "[3]")
            wanted = ["between", '{"n": 1}', '{"n": 2}', "[3]"]
            await wait_until(lambda: all(data_of(client) == wanted for client in clients))
            assert await application.fetchval("SELECT count(*) FROM tidewire_outbox") == 0

    run(scenario(postgres_database()))


def test_a_transaction_that_stays_open_holds_up_nobody_and_its_late_commit_is_not_lost() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url, publish_seconds=5.0) as node, client_of(url) as slow, client_of(url) as quick:
            client = await connect(node, channel="a")
            transaction = slow.transaction()
            await transaction.start()
            await slow.execute("SELECT tidewire_publish('a', '\"late\"')")
            for n in range(5):
                await quick.execute("SELECT tidewire_publish('a', to_jsonb($1::int))", n)
                start = time.monotonic()
                await node.publish("a", b"own")
                assert time.monotonic() - start < 4  # else it has waited for `publish_seconds`
            await wait_until(lambda: len(data_of(client)) == 10)
            assert [text for text in data_of(client) if text != "own"] == list("01234")
            await transaction.commit()
            await wait_until(lambda: data_of(client)[-1] == '"late"')

    run(scenario(postgres_database()))


def test_many_movers_move_everything_once_and_in_order() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, postgres_node(url) as other, client_of(url) as application:
            client = await connect(node, channel="a")
            ledger = Ledger(other)
            async with ledger.publishing():
                for n in range(200):
                    await application.execute("SELECT tidewire_publish('a', to_jsonb($1::int))", n)
            await received(client, ledger)
            check(client, ledger)
            await wait_until(lambda: len([text for text in data_of(client) if text.isdigit()]) == 200)
            assert [text for text in data_of(client) if text.isdigit()] == [str(n) for n in range(200)]

    run(scenario(postgres_database()), 30)


def test_transactions_that_commit_in_any_order_lose_nothing() -> None:
    async def application(url: str, number: int) -> None:
        async with client_of(url) as connection:
            for n in range(60):
                async with connection.transaction():
                    await connection.execute("SELECT tidewire_publish('a', to_jsonb($1::int))", number * 1_000 + n)
                    await asyncio.sleep(0.002 * (number % 3))

    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, postgres_node(url):
            client = await connect(node, channel="a")
            await asyncio.gather(*(application(url, number) for number in range(8)))
            await wait_until(lambda: len(data_of(client)) >= 480, 10)
            found = [int(text) for text in data_of(client)]
            assert sorted(found) == [number * 1_000 + n for number in range(8) for n in range(60)]
            for number in range(8):
                mine = [n for n in found if n // 1_000 == number]
                assert mine == sorted(mine)

    run(scenario(postgres_database()), 40)


def test_a_key_is_kept_once_with_or_without_a_transaction() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as application:
            client = await connect(node, channel="a")
            within = node.broker.within
            assert within is not None
            for text in (b"one", b"two"):
                await within(application, PublishRequest("a", text, Format.TEXT, key="k", meta=b'{"m":1}'))
            await wait_until(lambda: data_of(client) == ["one"])
            await node.publish("a", b"three", key="k")
            await node.publish("a", b"end")
            await wait_until(lambda: data_of(client) == ["one", "end"])
            page = await node.broker.history("a")
            assert (page.publications[0].meta, page.publications[0].format) == (b'{"m":1}', Format.TEXT)

    run(scenario(postgres_database()))


@pytest.mark.parametrize("kind", ["asyncpg", "psycopg", "psycopg-async", "sqlalchemy", "sqlalchemy-async"])
def test_the_hub_publishes_through_the_connection_of_every_library(kind: str) -> None:
    async def within(hub: Hub, url: str, text: str, *, commits: bool) -> None:
        if kind == "asyncpg":
            connection = await asyncpg.connect(url)
            transaction = connection.transaction()
            await transaction.start()
            await hub.publish("a", text, connection=connection)
            await (transaction.commit() if commits else transaction.rollback())
            await connection.close()
        elif kind == "psycopg":
            with psycopg.connect(url) as sync:
                await hub.publish("a", text, connection=sync)
                (sync.commit if commits else sync.rollback)()
        elif kind == "psycopg-async":
            async with await psycopg.AsyncConnection.connect(url) as other:
                await hub.publish("a", text, connection=other)
                await (other.commit() if commits else other.rollback())
        elif kind == "sqlalchemy":
            engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
            with Session(engine) as session:
                await hub.publish("a", text, connection=session)
                (session.commit if commits else session.rollback)()
        else:
            asynchronous = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool)
            async with AsyncSession(asynchronous) as opened:
                await hub.publish("a", text, connection=opened)
                await (opened.commit() if commits else opened.rollback())

    async def scenario(url: str) -> None:
        async with Hub(url) as hub:
            await within(hub, url, "no: 100 % :x", commits=False)
            await within(hub, url, "yes: 100 % :x", commits=True)

            async def is_there() -> bool:
                return bool((await hub.history("a")).publications)

            await wait_until(is_there)
            assert [p.data for p in (await hub.history("a")).publications] == [b"yes: 100 % :x"]

    run(scenario(postgres_database()))


def test_what_cannot_be_published_within_a_transaction_says_why() -> None:
    async def scenario(url: str) -> None:
        async with Hub(url) as hub, client_of(url) as application:
            with pytest.raises(ConfigurationError, match="tidewire_publish"):
                await hub.publish("a", "x", connection=object())
            within = hub.node.broker.within
            assert within is not None
            with pytest.raises(BadRequest, match="NUL"):
                await within(application, PublishRequest("a\0", b""))
            for channel in ("$control", "", " x", "a\nb", "x" * 256):
                with pytest.raises(asyncpg.PostgresError):
                    await application.execute("SELECT tidewire_publish($1, '1')", channel)
            for arguments in ((None, "1"), ("a", None)):
                with pytest.raises(asyncpg.NullValueNotAllowedError):
                    await application.execute("SELECT tidewire_publish($1, $2)", *arguments)
        async with Hub("memory://") as memory:
            with pytest.raises(ConfigurationError, match="postgresql:// and sqlite:// can"):
                await memory.publish("a", "x", connection=object())

    run(scenario(postgres_database()))


def test_publications_keep_the_order_of_their_commits_though_begun_in_another() -> None:
    """Rows that were written after their messages: who commits last has written the row that stays."""

    async def scenario(url: str) -> None:
        async with Hub(url) as hub, client_of(url) as mover, client_of(url) as first, client_of(url) as second:
            await mover.execute("CREATE TABLE rows (id integer PRIMARY KEY, state text)")
            await mover.execute("INSERT INTO rows VALUES (7, 'new')")
            await mover.execute("SELECT pg_advisory_lock('tidewire_outbox'::regclass::integer, 1)")  # none moves now
            transactions = [one.transaction() for one in (first, second)]
            for one, transaction, name in zip((first, second), transactions, ("first", "second"), strict=True):
                await transaction.start()
                for part in range(2):
                    await hub.publish("orders", [name, part], connection=one)
            for one, transaction, name in ((second, transactions[1], "second"), (first, transactions[0], "first")):
                await one.execute("UPDATE rows SET state = $1 WHERE id = 7", name)
                await transaction.commit()
            await mover.execute("SELECT pg_advisory_unlock('tidewire_outbox'::regclass::integer, 1)")
            async with hub.listen("orders", history=10) as publications, asyncio.timeout(10):
                found = [(await anext(publications)).json() for _ in range(4)]
            assert await mover.fetchval("SELECT state FROM rows") == "first"
            assert found == [["second", 0], ["second", 1], ["first", 0], ["first", 1]]

    run(scenario(postgres_database()))


def test_a_large_backlog_is_moved_in_turns() -> None:
    async def scenario(url: str) -> None:
        async with Hub(url, channels=LONG) as hub, client_of(url) as application:
            async with application.transaction():
                for n in range(12):
                    await hub.publish("orders", [n, "x" * 1_048_576], connection=application)

            async def are_moved() -> bool:
                return await application.fetchval("SELECT count(*) FROM tidewire_outbox") == 0

            await wait_until(are_moved, 20)
            moves = await application.fetch("SELECT count(*) AS n FROM tidewire_publications GROUP BY xmin::text")
            assert sum(move["n"] for move in moves) == 12
            assert max(move["n"] for move in moves) == 4
            page = await hub.history("orders")
            assert [publication.json()[0] for publication in page.publications] == list(range(12))

    run(scenario(postgres_database()), 40)


@pytest.mark.parametrize("by_sql", [True, False])
def test_what_is_published_in_transactions_alone_is_kept_as_the_rule_says(by_sql: bool) -> None:
    async def scenario(url: str) -> None:
        rules = {"orders": ChannelOptions(history_size=300)}
        async with Hub(url, channels=rules) as hub, client_of(url) as application:
            for n in range(150):
                if by_sql:
                    await application.execute("SELECT tidewire_publish('orders', to_jsonb($1::int))", n)
                else:
                    await hub.publish("orders", n, connection=application)

            async def are_moved() -> bool:
                return (await hub.position("orders")).offset == 150

            await wait_until(are_moved)
            trim = "SELECT * FROM tidewire_trim(0, 100, 1000, 0)"  # as after a minute
            await application.execute(trim)
            assert len((await hub.history("orders")).publications) == 150

    run(scenario(postgres_database()))


def test_a_role_of_the_application_needs_to_insert_only() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as owner:
            client = await connect(node, channel="a")
            role = "application_" + url.rpartition("/")[2]
            await owner.execute(f"CREATE ROLE {role} LOGIN; GRANT INSERT ON tidewire_outbox TO {role}")
            async with client_of(url.replace("postgres@", f"{role}@")) as application:
                await application.execute("SET search_path = pg_catalog")
                await application.execute("SELECT public.tidewire_publish('a', '1')")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await application.execute("SELECT * FROM public.tidewire_publications")
            await wait_until(lambda: data_of(client) == ["1"])

    run(scenario(postgres_database()))


def test_what_the_rule_says_is_said_again_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(url: str) -> None:
        rules = {"orders": ChannelOptions(history_size=300)}
        async with Hub(url, channels=rules) as hub, client_of(url) as operator:
            await operator.execute("ALTER TABLE tidewire_channels ADD CONSTRAINT mine CHECK (keep_size < 300)")
            await hub.publish("orders", 1, connection=operator)
            await wait_until(lambda: "cannot be moved yet" in caplog.text, 10)
            assert await operator.fetch("SELECT keep_size, top FROM tidewire_channels") == [(100, 1)]
            await operator.execute("ALTER TABLE tidewire_channels DROP CONSTRAINT mine")

            async def is_said() -> bool:
                return bool(await operator.fetchval("SELECT keep_size = 300 FROM tidewire_channels"))

            await wait_until(is_said, 15)

    run(scenario(postgres_database()), 40)


def test_a_broken_notification_is_no_more_than_a_look() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as application:
            client = await connect(node, channel="a")
            for payload in ("", "[]", '[["a",1000000]]', '{"a":1}', "x" * 7_999, "outbox", "look"):
                await application.execute("SELECT pg_notify('tidewire', $1)", payload)
            ledger = Ledger(node)
            await ledger.publish(10)
            await asyncio.sleep(0.1)
            await ledger.publish(10)
            await received(client, ledger)
            check(client, ledger)

    run(scenario(postgres_database()))


async def once(url: str) -> None:
    """Open a hub, which makes the tables and functions."""
    async with Hub(url):
        pass


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kills", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_kill_leaves_never_one_without_the_other(kills: int) -> None:
    url = postgres_database()
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("CREATE TABLE orders (n serial PRIMARY KEY)")
        run(once(url))
        worker = [sys.executable, "-m", "backends.postgres.transaction_worker", url, str(kills // 2)]
        with subprocess.Popen(worker, cwd=TESTS) as first, subprocess.Popen(worker, cwd=TESTS) as second:
            assert (first.wait(), second.wait()) == (0, 0)

        async def main() -> None:
            def waiting() -> bool:
                return database.execute("SELECT count(*) FROM tidewire_outbox").fetchone() == (0,)

            async with Hub(url, channels=LONG) as hub:
                await wait_until(waiting, 60)
                page = await hub.history("orders")
            rows = [n for (n,) in database.execute("SELECT n FROM orders ORDER BY n")]
            assert sorted(publication.json() for publication in page.publications) == rows
            assert len(rows) > kills // 4

        run(main(), 120)
