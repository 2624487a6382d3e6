"""What an application's role may make of the functions that run as the owner of the schema: nothing."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from engine.support import run
from helpers.stores import postgres_database
from tidewire.backends.postgres.schema import FUNCTIONS, TABLES, prepare
from tidewire.backends.shared.statements import read

from .helpers import client_of

#: All that an application could have been granted; the manual asks for the first one alone.
GRANTS = """
CREATE ROLE {role} LOGIN;
GRANT USAGE ON SCHEMA public TO {role};
GRANT INSERT ON tidewire_outbox TO {role};
GRANT SELECT, UPDATE, DELETE ON tidewire_channels, tidewire_publications TO {role};
"""
#: Temporary twins of every table (and so of its type) and function; whoever uses one tells who it is.
TWINS = "\n".join(
    (
        read("tidewire.backends.postgres", "schema.sql")
        .replace("CREATE TABLE IF NOT EXISTS", "CREATE TEMP TABLE")
        .replace("CREATE UNLOGGED TABLE IF NOT EXISTS", "CREATE TEMP TABLE"),
        "CREATE TEMP TABLE loot (who text); GRANT ALL ON loot TO PUBLIC;",
        "CREATE FUNCTION pg_temp.evil() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO pg_temp.loot VALUES (current_user); RETURN NULL; END $$;",
        *(
            f"GRANT ALL ON pg_temp.{table} TO PUBLIC; CREATE TRIGGER evil BEFORE INSERT OR UPDATE OR DELETE "
            f"ON pg_temp.{table} FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.evil();"
            for table in TABLES
        ),
        *(
            f"CREATE FUNCTION pg_temp.{name}() RETURNS text LANGUAGE sql AS "
            "$$ INSERT INTO pg_temp.loot VALUES (current_user) RETURNING who $$;"
            for name in FUNCTIONS
        ),
        "SELECT setval(pg_get_serial_sequence('pg_temp.tidewire_outbox', 'id')::regclass, 1000);",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA pg_temp TO PUBLIC;",
    )
)
#: What makes each of those functions run.
USES = (
    "INSERT INTO public.tidewire_outbox (channel, format, data) VALUES ('a', 2, '1'), ('a', 2, '2')",
    "SELECT public.tidewire_publish('a', '1')",
    "SELECT public.tidewire_mend()",
    "UPDATE public.tidewire_channels SET name = 'b'",
    "DELETE FROM public.tidewire_publications",
    "DELETE FROM public.tidewire_channels",
)


async def granted(owner: Any) -> str:
    """Make the role of an application, and return its name: roles are the server's, databases are not."""
    role = f"application_of_{await owner.fetchval('SELECT current_database()')}"
    await owner.execute(GRANTS.format(role=role))
    return role


def test_no_temporary_twin_of_a_table_or_function_is_used_by_what_runs_as_the_owner() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner:
            await prepare(owner)
            role = await granted(owner)
            await owner.execute("INSERT INTO tidewire_channels (name, keep_size, keep_age) VALUES ('a', 1, 1)")
            era = await owner.fetchval("SELECT era FROM tidewire_store")
            async with client_of(url.replace("postgres@", f"{role}@")) as application:
                await application.execute(TWINS)
                for statement in USES:
                    await application.execute(statement)
                    assert await application.fetch("SELECT who FROM pg_temp.loot") == [], statement
            assert await owner.fetchval("SELECT count(*) FROM tidewire_outbox") == 3
            assert await owner.fetchval("SELECT count(*) FROM tidewire_channels") == 0
            assert await owner.fetchval("SELECT era FROM tidewire_store") != era

    run(scenario(postgres_database()), 30)


def test_nobody_else_makes_triggers_of_the_functions_that_run_as_the_owner() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner:
            await prepare(owner)
            role = await granted(owner)
            async with client_of(url.replace("postgres@", f"{role}@")) as application:
                await application.execute("CREATE TEMP TABLE tidewire_members (id bigint)")
                for name in ("tidewire_lose", "tidewire_commit"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await application.execute(
                            "CREATE TRIGGER mine AFTER INSERT ON tidewire_members "
                            f"FOR EACH ROW EXECUTE FUNCTION public.{name}()"
                        )

    run(scenario(postgres_database()), 30)


PATHS = "SELECT DISTINCT line FROM pg_proc, unnest(proconfig) AS line WHERE proname LIKE 'tidewire%'"


def test_a_path_that_looks_at_temporary_tables_first_is_mended() -> None:
    async def scenario(url: str) -> None:
        async with client_of(url) as owner:
            await owner.execute('SET search_path = "$user", public')
            for statement in (
                "SELECT 1",
                "ALTER FUNCTION tidewire_commit SET search_path = public",
                "ALTER FUNCTION tidewire_lose RESET search_path",
                "ALTER FUNCTION tidewire_publish SET search_path FROM CURRENT",
            ):
                await prepare(owner)
                assert [row["line"] for row in await owner.fetch(PATHS)] == ["search_path=public, pg_temp"], statement
                await owner.execute(statement)
            assert await owner.fetchval("SHOW search_path") == '"$user", public'
            await prepare(owner)
            assert [row["line"] for row in await owner.fetch(PATHS)] == ["search_path=public, pg_temp"]

    run(scenario(postgres_database()), 30)
