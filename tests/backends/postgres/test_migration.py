"""What a migration does to those who use the store meanwhile, and to what applications have made there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from engine.support import run
from helpers.stores import postgres_database
from tidewire.backends.postgres.schema import SQL, VERSION, prepare
from tidewire.errors import ConfigurationError, PublishError
from tidewire.testing import wait_until

from .helpers import client_of, postgres_node

PUBLISH = "SELECT * FROM tidewire_append('a', NULL, NULL, ARRAY[2::smallint], ARRAY['1'::bytea], ARRAY[]::bytea[])"
#: The schema is one of an earlier version.
EARLIER = "UPDATE tidewire_store SET version = 4"
WAITING = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted AND mode = 'AccessExclusiveLock'"


@asynccontextmanager
async def in_use(url: str) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Yield a worker of an earlier version, a transaction that has published, and who will migrate."""
    async with client_of(url) as worker, client_of(url) as application, client_of(url) as migrating:
        await prepare(worker)
        await worker.execute(EARLIER)
        transaction = application.transaction()
        await transaction.start()
        await application.execute("SELECT tidewire_publish('a', '1')")
        yield worker, transaction, migrating


def test_a_migration_that_waits_for_an_application_holds_up_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidewire.backends.postgres.schema._TRYING", 1_000)

    async def scenario(url: str) -> None:
        async with in_use(url) as (worker, transaction, migrating):
            process = migrating.get_server_pid()
            migration = asyncio.create_task(prepare(migrating))

            async def is_waiting() -> bool:
                assert not migration.done()
                return bool(await worker.fetchval(WAITING, process))

            for _ in range(3):  # as an old worker does, and as another application does
                await wait_until(is_waiting)
                held = await worker.fetch(
                    "SELECT c.relname FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation WHERE l.pid = $1 "
                    "AND l.granted AND c.relname LIKE 'tidewire%' AND c.relkind = 'r' AND l.mode <> 'AccessShareLock'",
                    process,
                )
                assert held == []
                await worker.fetchrow(PUBLISH, timeout=20)
            await worker.execute("SELECT tidewire_publish('a', '2')", timeout=20)
            assert not migration.done()
            await transaction.commit()
            await migration
            assert await worker.fetchval(SQL["version"]) == VERSION
            assert await worker.fetchval("SELECT count(*) FROM tidewire_outbox") == 2

    run(scenario(postgres_database()), 60)


#: Whether a session has waited for one lock for longer than a migration waits for most of them.
PATIENT = """
SELECT count(*) FROM pg_stat_activity
WHERE pid = $1 AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '300 ms'
"""


def test_a_migration_has_its_turn_among_transactions_that_overlap() -> None:
    """Each try asked for less time than the last one of them took: a busy application was never migrated."""

    async def scenario(url: str) -> None:
        async with in_use(url) as (worker, transaction, migrating):
            migration = asyncio.create_task(prepare(migrating))

            async def is_patient() -> bool:
                if migration.done():
                    await migration
                return bool(await worker.fetchval(PATIENT, migrating.get_server_pid()))

            await wait_until(is_patient, 20)
            await transaction.commit()
            await migration
            assert await worker.fetchval(SQL["version"]) == VERSION

    run(scenario(postgres_database()), 60)


def test_a_migration_gives_up_while_an_application_goes_on_and_holds_nothing_then() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as worker, client_of(url) as application, client_of(url) as migrating:
            await prepare(worker)
            await worker.execute(EARLIER)
            async with application.transaction():
                await application.execute("SELECT * FROM tidewire_channels")  # as a backup does
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await prepare(migrating)
                await worker.fetchrow(PUBLISH, timeout=20)
                await worker.execute("SELECT tidewire_publish('a', '1')", timeout=20)
                assert await worker.fetchval(SQL["version"]) == 4
            await prepare(migrating)
            assert await worker.fetchval(SQL["version"]) == VERSION

    run(scenario(postgres_database()), 60)


#: One of which a later version returns more.
MOVE = """
DROP FUNCTION tidewire_move(integer);
CREATE FUNCTION tidewire_move(maximum integer, OUT moved integer, OUT names text[], OUT tops bigint[])
LANGUAGE sql AS 'SELECT 0, NULL::text[], NULL::bigint[]';
"""
GRANTS = """
CREATE ROLE {role};
REVOKE EXECUTE ON FUNCTION tidewire_publish_bytes, tidewire_move, tidewire_keep FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tidewire_publish_bytes, tidewire_move TO {role};
"""
ACLS = """
SELECT p.proname, pg_get_userbyid(a.grantee) FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
WHERE p.proname LIKE 'tidewire%' ORDER BY 1, 2
"""


def test_what_an_application_has_made_of_the_functions_stays_and_so_do_grants() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner:
            await prepare(owner)
            await owner.execute(MOVE + EARLIER)
            await owner.execute(GRANTS.format(role=f"mover_of_{await owner.fetchval('SELECT current_database()')}"))
            await owner.execute(
                "CREATE VIEW clock AS SELECT tidewire_now() AS now;"
                "CREATE TABLE notes (made double precision DEFAULT tidewire_now());"
                "CREATE FUNCTION tidewire_publish(text, text) RETURNS void LANGUAGE sql AS 'SELECT'"
            )
            before = await owner.fetch(ACLS)
            assert len(before) == 7  # four with the owner and two with the role, and one of the owner alone
            await prepare(owner)
            assert await owner.fetchval(SQL["version"]) == VERSION
            assert (await owner.fetchrow(SQL["move"], 1, 1))["sizes"] is None
            assert await owner.fetchval("SELECT now FROM clock") > 1e9
            assert await owner.fetchval("INSERT INTO notes DEFAULT VALUES RETURNING made") > 1e9
            assert await owner.fetchval("SELECT count(*) FROM pg_proc WHERE proname = 'tidewire_publish'") == 2
            assert await owner.fetch(ACLS) == before

    run(scenario(postgres_database()), 30)


def test_what_keeps_a_function_from_being_made_anew_is_named_and_stays() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner:
            await prepare(owner)
            await owner.execute(MOVE + EARLIER)
            await owner.execute("CREATE VIEW moves AS SELECT * FROM tidewire_move(0)")
            with pytest.raises(ConfigurationError, match=r"tidewire_move\(integer\) anew, but view moves depends on"):
                await prepare(owner)
            assert await owner.fetchval("SELECT moved FROM moves") == 0
            assert await owner.fetchval(SQL["version"]) == 4
            await owner.execute("DROP VIEW moves")
            await prepare(owner)
            assert await owner.fetchval(SQL["version"]) == VERSION

    run(scenario(postgres_database()), 30)


ENDED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tidewire' AND datname = $1"


def test_an_old_worker_works_on_after_a_migration_until_its_sessions_end_and_can_be_gone_back_to() -> None:
    async def scenario(url: str) -> None:
        async with postgres_node(url) as old, client_of(url) as operator:
            await operator.execute("UPDATE tidewire_store SET version = $1", VERSION + 1)  # as a newer one does
            await old.publish("a", b"1")
            await operator.execute("SELECT tidewire_publish('a', '2')")

            async def is_moved() -> bool:
                return bool(await operator.fetchval("SELECT count(*) = 0 FROM tidewire_outbox"))

            await wait_until(is_moved, 15)
            await operator.fetch(ENDED, await operator.fetchval("SELECT current_database()"))

            async def says_so() -> bool:
                try:
                    await old.publish("a", b"3")
                except PublishError as error:
                    return "update it" in str(error)
                return False

            await wait_until(says_so, 15)
            with pytest.raises(ConfigurationError, match="update it"):
                async with postgres_node(url):
                    pass
            await operator.execute("UPDATE tidewire_store SET version = $1", VERSION)
            await wait_until(lambda: not old.tasks.degraded, 15)
            await old.publish("a", b"4")

    run(scenario(postgres_database()), 60)
