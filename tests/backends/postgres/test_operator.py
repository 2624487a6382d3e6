"""Parts of the store that an operator removes: made again, and every subscriber that missed something is told."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import asyncpg
import pytest

from engine.support import connect, run
from helpers.ledger import Ledger, check, received
from helpers.stores import postgres_database
from tidewire.backends.postgres.schema import BODIES, FUNCTIONS, TABLES, VERSION, Seen, enter
from tidewire.backends.shared.statements import read
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.messages import Format, Member
from tidewire.testing import wait_until

from .helpers import client_of, postgres_node

#: Publications or their positions are gone: a new epoch.
LOSSES = [
    "TRUNCATE tidewire_store",
    "DELETE FROM tidewire_store",
    "TRUNCATE tidewire_channels",
    "DELETE FROM tidewire_channels WHERE name = 'a'",
    "TRUNCATE tidewire_publications",
    'DELETE FROM tidewire_publications WHERE "offset" IN (3, 4)',
    f"TRUNCATE {', '.join(TABLES)}",
    "UPDATE tidewire_channels SET top = 5",
    "UPDATE tidewire_channels SET top = -5",
    "UPDATE tidewire_channels SET top = 9223372036854775807",
    "UPDATE tidewire_channels SET name = 'z'",
    'UPDATE tidewire_publications SET "offset" = "offset" + 100',
    "INSERT INTO tidewire_publications SELECT id, 11, 1, 0, 'x', '' FROM tidewire_channels",
    "DROP TABLE tidewire_store",
    "DROP TABLE tidewire_channels CASCADE",
    "DROP TABLE tidewire_publications",
    "ALTER TABLE tidewire_publications DROP COLUMN meta",
    "ALTER TABLE tidewire_channels DROP COLUMN keep_age",
    f"DROP TABLE {', '.join(TABLES)} CASCADE",
    "SET session_replication_role = replica; DELETE FROM tidewire_channels",
    # an older backup is put back, while everybody is connected
    """
    CREATE TABLE s AS SELECT * FROM tidewire_store;
    CREATE TABLE c AS SELECT id, name, 4 AS top, floor, keep_size, keep_age FROM tidewire_channels;
    CREATE TABLE p AS SELECT * FROM tidewire_publications WHERE "offset" <= 4;
    BEGIN;
    TRUNCATE tidewire_store, tidewire_channels, tidewire_publications;
    INSERT INTO tidewire_store SELECT * FROM s;
    INSERT INTO tidewire_channels OVERRIDING SYSTEM VALUE SELECT * FROM c;
    INSERT INTO tidewire_publications SELECT * FROM p;
    COMMIT
    """,
    "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
    "ALTER SCHEMA public RENAME TO another; CREATE SCHEMA public",
]
#: Nothing is gone that a subscriber could miss.
HARMLESS = [
    "TRUNCATE tidewire_keys",
    "DROP TABLE tidewire_keys",
    "TRUNCATE tidewire_outbox",
    "DROP TABLE tidewire_outbox CASCADE",
    "TRUNCATE tidewire_nodes, tidewire_members, tidewire_departures",
    "DROP TABLE tidewire_departures CASCADE",
    *(f"DROP FUNCTION {name} CASCADE" for name in ("tidewire_append", "tidewire_keep", "tidewire_now")),
    "ALTER TABLE tidewire_channels ALTER COLUMN id RESTART",
    "ALTER FUNCTION tidewire_append RENAME TO mine",
]


async def removed(url: str, statement: str, *, told: bool) -> None:
    patient = {"publish_seconds": 10.0}  # six databases are tried at once
    async with (
        postgres_node(url, **patient) as node,
        postgres_node(url, **patient) as other,
        client_of(url) as operator,
    ):
        near, far = await connect(node, channel="a"), await connect(other, channel="a")
        ledger = Ledger(node)
        await ledger.publish(10)
        for client in (near, far):
            await received(client, ledger)
        before = ledger.last
        await operator.execute(statement)
        await ledger.succeeds(10)
        for client in (near, far):
            await received(client, ledger)
            check(client, ledger, told=told)
        assert (ledger.last.epoch != before.epoch) == told
        assert "a" in [row["name"] for row in await operator.fetch("SELECT name FROM tidewire_channels")]
        await wait_until(lambda: not node.tasks.degraded and not other.tasks.degraded, 15)


async def at_once(attempt: Callable[[str, str], Awaitable[None]], statements: Iterable[str]) -> None:
    """Try statements, each in a database of its own, several at once: each waits for a look of its nodes."""
    places = asyncio.Semaphore(6)

    async def one(statement: str) -> None:
        async with places:
            try:
                await attempt(postgres_database(), statement)
            except Exception as error:
                error.add_note(statement)
                raise

    async with asyncio.TaskGroup() as group:
        for statement in statements:
            group.create_task(one(statement))


def test_a_loss_is_a_new_epoch_and_told() -> None:
    run(at_once(partial(removed, told=True), LOSSES), 100)


def test_where_nothing_is_lost_nobody_is_told() -> None:
    run(at_once(partial(removed, told=False), HARMLESS), 60)


#: Nothing of this is noticed before something is published with a key in a channel that is new, or somebody joins.
OF_THE_SCHEMA = (
    "ALTER TABLE tidewire_channels DROP CONSTRAINT tidewire_channels_name_key",
    "ALTER TABLE tidewire_keys DROP CONSTRAINT tidewire_keys_pkey",
    "ALTER TABLE tidewire_members DROP CONSTRAINT tidewire_members_channel_connection_key",
    "ALTER TABLE tidewire_channels ALTER COLUMN id DROP IDENTITY",
    "ALTER TABLE tidewire_channels ALTER COLUMN top DROP DEFAULT",
    "ALTER TABLE tidewire_publications ALTER COLUMN time TYPE text",
    "DROP TRIGGER tidewire_lose ON tidewire_channels; DROP FUNCTION tidewire_keep",
    # columns that nobody fills
    *(
        f"ALTER TABLE tidewire_{table} ADD COLUMN mine integer NOT NULL DEFAULT 0;"
        f"ALTER TABLE tidewire_{table} ALTER COLUMN mine DROP DEFAULT"
        for table in ("channels", "publications", "keys", "nodes", "members", "outbox")
    ),
    "CREATE OR REPLACE FUNCTION tidewire_now() RETURNS double precision LANGUAGE sql AS 'SELECT 1.0 / 0'",
    "DROP FUNCTION tidewire_now CASCADE; CREATE FUNCTION tidewire_now() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "ALTER TABLE tidewire_channels ALTER COLUMN id RESTART WITH 9223372036854775807",
    "ALTER TABLE tidewire_members ALTER COLUMN seq RESTART WITH 9223372036854775807",
    "ALTER TABLE tidewire_outbox ALTER COLUMN id RESTART WITH 9223372036854775807",
)


@pytest.mark.usefixtures("often")
def test_keys_defaults_types_and_triggers_are_made_again() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as operator:
            for number, statement in enumerate(OF_THE_SCHEMA):
                await operator.execute(statement)

                async def works() -> bool:
                    try:
                        await node.publish(f"new {number}", b"1", Format.TEXT, key="k")  # noqa: B023
                        await node.publish(f"other {number}", b"1")  # noqa: B023
                        await node.presence.join("a", Member("1", "ann"))
                        await node.presence.join("a", Member("2", "ann"))
                        for _ in range(3):  # as an application does
                            await operator.execute("SELECT tidewire_publish('a', '1')")
                        return bool((await node.broker.history(f"new {number}")).publications)  # noqa: B023
                    except (PublishError, StoreUnavailable, asyncpg.PostgresError):
                        return False

                await wait_until(works, 10, statement)
            assert await operator.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname = 'tidewire_lose'") == 3

    run(scenario(postgres_database()), 120)


@pytest.mark.usefixtures("often")
def test_indexes_are_made_again_and_what_another_clock_has_said_costs_no_history() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as operator:
            await node.publish("a", b"1")
            await operator.execute(
                "DROP INDEX tidewire_keys_by_expiry, tidewire_members_by_user; CREATE OR REPLACE FUNCTION "
                "tidewire_now() RETURNS double precision LANGUAGE sql AS 'SELECT 1e12::double precision'"
            )

            async def is_whole() -> bool:
                found = await operator.fetchval(
                    "SELECT count(*) FROM pg_class WHERE relname LIKE 'tidewire_%_by_%' AND relkind = 'i'"
                )
                return found == 3 and await operator.fetchval("SELECT tidewire_now()") < 1e11

            await wait_until(is_whole, 10)
            assert len((await node.broker.history("a")).publications) == 1

    run(scenario(postgres_database()), 30)


def test_a_schema_that_is_renamed_is_used_under_its_new_name() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node:
            first = await node.publish("a", b"1")
        async with client_of(url) as operator:
            await operator.execute("ALTER SCHEMA public RENAME TO another")
            async with postgres_node(f"{url}?search_path=another") as node, client_of(url) as application:
                assert len((await node.broker.history("a")).publications) == 1
                await application.execute("SELECT another.tidewire_publish('a', '1')")
                await operator.execute("DELETE FROM another.tidewire_channels")
                assert (await node.publish("a", b"1")).epoch != first.epoch

    run(scenario(postgres_database()), 30)


#: Nothing of this fires a trigger of ours, and no statement of ours fails.
SILENT = (
    # what a lost trigger, or one of another body, would have told of, nobody knows
    "DROP FUNCTION tidewire_lose CASCADE",
    "ALTER TABLE tidewire_channels DISABLE TRIGGER ALL; DELETE FROM tidewire_channels",
    "ALTER TABLE tidewire_publications DISABLE TRIGGER ALL; ALTER TABLE tidewire_publications ENABLE TRIGGER ALL",
    "CREATE OR REPLACE FUNCTION tidewire_lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
    "TRUNCATE tidewire_channels, tidewire_publications",
    # a counter is put back where no publication contradicts it
    "SELECT set_config('tidewire.trimming', 'on', false); DELETE FROM tidewire_publications;"
    "UPDATE tidewire_channels SET top = 2",
    # a backup is put back in one transaction, with tables of its own
    "ALTER TABLE tidewire_channels RENAME TO before; CREATE TABLE tidewire_channels (LIKE before INCLUDING ALL);"
    "INSERT INTO tidewire_channels OVERRIDING SYSTEM VALUE SELECT * FROM before; DROP TABLE before CASCADE",
    # a key cannot be made again
    "ALTER TABLE tidewire_publications DROP CONSTRAINT tidewire_publications_pkey;"
    "INSERT INTO tidewire_publications SELECT * FROM tidewire_publications",
)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes look for what is missing of the schema several times a second."""
    monkeypatch.setattr("tidewire.backends.postgres.housekeeping._TRIM_ROUND", 0.3)


@pytest.mark.usefixtures("often")
def test_a_loss_is_told_though_nothing_is_published() -> None:
    async def scenario(url: str, statement: str) -> None:
        async with postgres_node(url) as node, postgres_node(url) as other, client_of(url) as operator:
            clients = [await connect(one, channel="a") for one in (node, other)]
            ledger = Ledger(node)
            await ledger.publish(3)
            for client in clients:
                await received(client, ledger)
            await operator.execute(statement)
            for client in clients:
                await wait_until(lambda client=client: "i a" in client.shown, 10)  # type: ignore[misc]
            await ledger.succeeds(3)
            for client in clients:
                await received(client, ledger)

    run(at_once(scenario, ["TRUNCATE tidewire_channels", "TRUNCATE tidewire_store", *SILENT]), 60)


def test_the_first_publication_of_a_new_era_may_have_the_offset_that_a_reader_has() -> None:
    """Both nodes stay connected: nothing but the era says that (1, new) is not (1, old)."""

    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, postgres_node(url) as other, client_of(url) as operator:
            clients = [(await connect(one, channel=channel), channel) for one in (node, other) for channel in "ab"]
            for channel in "ab":
                await node.publish(channel, b"1")
            for client, channel in clients:
                start = f"p {channel} 1 "
                await wait_until(lambda: any(line.startswith(start) for line in client.shown))  # noqa: B023
            # as a node does that enters late, with what it knows of the server before
            await operator.execute(
                "ALTER TABLE tidewire_channels DISABLE TRIGGER tidewire_lose; DELETE FROM tidewire_channels;"
                "ALTER TABLE tidewire_channels ENABLE TRIGGER tidewire_lose;"
                "UPDATE tidewire_store SET era = 'another'"
            )
            for channel in "ab":
                assert (await node.publish(channel, b"2")).offset == 1
            for client, channel in clients:
                await wait_until(lambda: f"i {channel}" in client.shown)  # noqa: B023

    run(scenario(postgres_database()), 30)


@pytest.mark.parametrize(
    "statement",
    [
        LOSSES[0],
        LOSSES[6],
        "DROP TABLE tidewire_channels CASCADE",
        "ALTER TABLE tidewire_publications DROP COLUMN meta",
        "DROP TABLE tidewire_nodes CASCADE",
    ],
)
def test_a_restart_and_a_migration_mend_what_was_removed_meanwhile(statement: str) -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node:
            first = await node.publish("a", b"1")
        async with client_of(url) as operator:
            await operator.execute(statement)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tidewire", "migrate", "--broker", url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        async with postgres_node(url) as node:
            second = await node.publish("a", b"2")
            assert (second.epoch == first.epoch) == ("nodes" in statement and "store" not in statement)
            assert await node.presence.count("a") == 0

    run(scenario(postgres_database()), 60)


OF_MEMBERS = (
    "TRUNCATE tidewire_members",
    "TRUNCATE tidewire_nodes",
    "DROP TABLE tidewire_members",
    "ALTER TABLE tidewire_members DROP COLUMN info",
    "ALTER TABLE tidewire_nodes DROP COLUMN since",
)


def test_members_that_an_operator_removes_join_again() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node, client_of(url) as operator:
            await node.memberships.enter("a", Member("1", "ann"))
            for statement in OF_MEMBERS:
                await operator.execute(statement)

                async def is_listed() -> bool:
                    try:
                        return [member.user for member in await node.presence.members("a")] == ["ann"]
                    except Exception:
                        return False

                await wait_until(is_listed, 10)

    run(scenario(postgres_database()), 60)


EARLIER = """
ALTER TABLE tidewire_members RENAME COLUMN announcement TO farewell;
ALTER TABLE tidewire_departures RENAME COLUMN announcement TO farewell;
DROP FUNCTION tidewire_join;
CREATE FUNCTION tidewire_join(
    of_node bigint, of_channel text, of_connection text, of_user text, of_info bytea, of_farewell bytea,
    of_format smallint, lease double precision, OUT others integer, OUT connections integer
) LANGUAGE sql AS 'SELECT 0, 0';
"""


def test_the_members_of_an_earlier_version_are_made_anew() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as node:
            first = await node.publish("a", b"1")
        async with client_of(url) as operator:
            await operator.execute(EARLIER)
        async with postgres_node(url) as node:
            await node.memberships.enter("a", Member("1", "ann"))
            assert [member.user for member in await node.presence.members("a")] == ["ann"]
            assert (await node.publish("a", b"2")).epoch == first.epoch

    run(scenario(postgres_database()), 60)


def test_every_function_and_table_of_the_schema_is_looked_for() -> None:
    assert len(TABLES) == len(set(TABLES)) == 8
    assert {"tidewire_publish", "tidewire_publish_bytes", "tidewire_claim"} < set(FUNCTIONS)
    assert len(FUNCTIONS) == len(set(FUNCTIONS)) == len(BODIES)


def test_whoever_changes_the_schema_raises_its_version() -> None:
    """Nodes of two versions of tidewire would else put their own functions in the place of the others', for ever."""
    text = "".join(read("tidewire.backends.postgres", name) for name in ("schema.sql", "functions.sql"))
    assert (VERSION, hashlib.md5(text.encode()).hexdigest()) == (6, "af65cc37d05b79ce794def1632b771fa")


def test_a_place_in_the_log_of_another_server_says_nothing_of_this_one() -> None:
    """A node that comes late to a fresh server does not begin an epoch after those that were there before."""

    async def scenario(url: str) -> None:
        async with postgres_node(url), client_of(url) as session:
            identity = await enter(session, None)
            era = await session.fetchval("SELECT era FROM tidewire_store")
            assert await enter(session, Seen("FFFFFFFF/0", "another server")) == identity
            assert await session.fetchval("SELECT era FROM tidewire_store") == era
            assert await enter(session, Seen("FFFFFFFF/0", identity)) == identity
            assert await session.fetchval("SELECT era FROM tidewire_store") != era

    run(scenario(postgres_database()), 20)
