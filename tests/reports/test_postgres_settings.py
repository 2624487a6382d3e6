"""Settings that the operator of a database has made for all sessions do not end those that wait."""

from __future__ import annotations

import asyncpg

from helpers.hubs import run
from helpers.stores import postgres_database
from tidewire import Hub
from tidewire.backends.postgres.server_errors import explain


def test_a_session_that_waits_is_not_ended_for_being_idle() -> None:
    """`idle_session_timeout` ended the session that listens, again and again (as PostgREST/postgrest#3778 saw)."""

    async def scenario(url: str) -> None:
        administrator = await asyncpg.connect(url)
        name = url.rpartition("/")[2]
        for setting in ("idle_session_timeout = '200ms'", "default_transaction_isolation = 'serializable'"):
            await administrator.execute(f"ALTER DATABASE {name} SET {setting}")
        async with Hub(url) as one, Hub(url) as other, other.listen("a") as publications:
            query = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tidewire'"
            )
            before = {row["pid"] for row in await administrator.fetch(query)}
            await administrator.execute("SELECT pg_sleep(1)")
            await one.publish("a", "x")
            assert (await anext(publications)).text() == "x"
            assert not one.degraded
            assert {row["pid"] for row in await administrator.fetch(query)} >= before
        await administrator.close()

    run(scenario(postgres_database()))


def test_a_session_that_has_ended_is_named_in_words() -> None:
    """ "cannot switch to state 12; another operation (2) is in progress" (MagicStack/asyncpg#1069)."""
    error = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    assert explain(error, "PostgreSQL at host/db") == "PostgreSQL at host/db has ended the session; its log says why"
