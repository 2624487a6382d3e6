"""Sessions and connections of applications: each publishes with its transaction, or says why it can't."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlmodel import Session as ModelSession
from sqlmodel.ext.asyncio.session import AsyncSession as AsyncModelSession

from helpers.hubs import run
from helpers.stores import postgres_database
from tidewire import ChannelOptions, ConfigurationError, Hub, Limits
from tidewire.backends.sqlite.database import SQL
from tidewire.testing import wait_until

STORES = ["sqlite", "postgresql"]


def addresses(store: str, folder: Path) -> tuple[str, str]:
    """Return the address of a hub, and that of its application's database in SQLAlchemy's words."""
    if store == "sqlite":
        return f"sqlite:///{folder / 'hub.db'}", f"sqlite:///{folder / 'app.db'}"
    url = postgres_database()
    return url, url.replace("postgresql:", "postgresql+psycopg:")


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def texts(hub: Hub, count: int) -> list[Any]:
    """Return what the channel has when it has so many publications."""
    found: list[Any] = []

    async def are_there() -> bool:
        found[:] = [publication.json() for publication in (await hub.history("orders")).publications]
        return len(found) >= count

    await wait_until(are_there)
    return found


@contextlib.asynccontextmanager
async def nested(session: Any) -> Any:
    """Hold a savepoint, and return to it after an error, of a session of either kind."""
    savepoint = await done(session.begin_nested())
    try:
        yield
    except ZeroDivisionError:
        await done(savepoint.rollback())
    else:
        await done(savepoint.commit())


SYNCHRONOUS: list[Callable[[Any], Any]] = [Session, ModelSession, lambda engine: scoped_session(sessionmaker(engine))]
ASYNCHRONOUS: list[Callable[[Any], Any]] = [
    AsyncSession,
    AsyncModelSession,
    lambda engine: async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task),
]


@pytest.mark.parametrize("make", range(6))
@pytest.mark.parametrize("store", STORES)
def test_every_session_publishes_what_it_commits_and_nothing_else(tmp_path: Path, store: str, make: int) -> None:
    async def main() -> None:
        url, database = addresses(store, tmp_path)
        if make < len(SYNCHRONOUS):
            engine: Any = create_engine(database)
            open_session = SYNCHRONOUS[make]
        else:
            engine = create_async_engine(database.replace("sqlite:", "sqlite+aiosqlite:"))
            open_session = ASYNCHRONOUS[make - len(SYNCHRONOUS)]
        async with Hub(url) as hub:
            session = open_session(engine)
            await hub.publish("orders", "a", connection=session)
            async with nested(session):
                await hub.publish("orders", "undone", connection=session)
                raise ZeroDivisionError
            async with nested(session):
                await hub.publish("orders", "b", connection=session)
            await hub.publish("orders", "c", connection=session)
            await done(session.commit())
            await hub.publish("orders", "rolled back", connection=session)
            await done(session.rollback())
            await hub.publish("orders", "never committed", connection=session)
            await done(session.close())
            session = open_session(engine)
            await hub.publish("orders", "end", connection=session)
            await done(session.commit())
            await done(session.close())
            assert await texts(hub, 4) == ["a", "b", "c", "end"]
        await done(engine.dispose())

    run(main())


@pytest.mark.parametrize("store", STORES)
def test_a_thread_passes_its_own_session_not_that_of_whichever_thread(tmp_path: Path, store: str) -> None:
    """The event loop's thread had another one: nothing was published, and its transaction stayed open for ever."""

    def work(hub: Hub, sessions: scoped_session[Session]) -> None:
        async def place() -> None:
            await hub.publish("orders", "nested", connection=sessions)

        sessions.execute(text("CREATE TABLE orders (id INTEGER)"))
        with pytest.raises(ConfigurationError, match=r"connection=Session\(\)"):
            hub.from_thread(hub.publish, "orders", 1, connection=sessions)
        with pytest.raises(ConfigurationError, match=r"connection=Session\(\)"):
            hub.from_thread(place)
        hub.from_thread(hub.publish, "orders", "own", connection=sessions())
        sessions.commit()
        sessions.remove()

    async def main() -> None:
        url, database = addresses(store, tmp_path)
        engine = create_engine(database)
        async with Hub(url) as hub:
            sessions = scoped_session(sessionmaker(engine))
            await asyncio.to_thread(work, hub, sessions)
            assert await texts(hub, 1) == ["own"]
            assert not sessions.registry.has()  # this thread has got none
        engine.dispose()

    run(main())


@pytest.mark.parametrize("store", STORES)
def test_what_a_thread_calls_has_the_session_of_its_task(tmp_path: Path, store: str) -> None:
    async def main() -> None:
        url, database = addresses(store, tmp_path)
        engine = create_async_engine(database.replace("sqlite:", "sqlite+aiosqlite:"))
        sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        async with Hub(url) as hub:

            async def place() -> None:
                await sessions.execute(text("CREATE TABLE orders (id INTEGER)"))
                await hub.publish("orders", "placed", connection=sessions)
                await sessions.commit()
                await sessions.remove()

            await asyncio.to_thread(hub.from_thread, place)
            assert await texts(hub, 1) == ["placed"]
        await engine.dispose()

    run(main())


def test_what_nobody_keeps_is_in_no_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        database = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        async with Hub(f"sqlite:///{tmp_path / 'hub.db'}", channels={"orders": ChannelOptions(ephemeral=True)}) as hub:
            for ephemeral in (None, True):
                with pytest.raises(ConfigurationError, match="can't be part of a transaction"):
                    await hub.publish("orders", 1, connection=database, ephemeral=ephemeral)
            await hub.publish("orders", 2, connection=database, ephemeral=False)
            assert await texts(hub, 1) == [2]
        database.close()

    run(main())


@pytest.mark.parametrize("store", STORES)
def test_what_has_no_transaction_says_so(tmp_path: Path, store: str) -> None:
    async def main() -> None:
        url, database = addresses(store, tmp_path)
        engine = create_engine(database)
        async with Hub(url) as hub:
            for wrong in (engine, sessionmaker(engine)):
                with pytest.raises(ConfigurationError, match="has no transaction; give a session"):
                    await hub.publish("orders", 1, connection=wrong)
            _, elsewhere = addresses("sqlite" if store == "postgresql" else "postgresql", tmp_path)
            other = create_engine(elsewhere)
            with other.connect() as connection, pytest.raises(ConfigurationError, match=f"this hub's store is {store}"):
                await hub.publish("orders", 1, connection=connection)
            other.dispose()
            if store == "postgresql":
                async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
                    with pytest.raises(ConfigurationError, match="connection=Pool is not known"):
                        await hub.publish("orders", 1, connection=pool)
                foreign = await asyncpg.connect(postgres_database())
                with pytest.raises(ConfigurationError, match="another database"):
                    await hub.publish("orders", 1, connection=foreign)
                await foreign.close()
        engine.dispose()

    run(main())


def test_a_store_in_a_schema_of_its_own_needs_no_search_path() -> None:
    async def main() -> None:
        url = postgres_database()
        application = await asyncpg.connect(url)
        await application.execute('CREATE SCHEMA "Its own"')
        async with Hub(f"{url}?options=-c%20search_path=%22Its%5C%20own%22") as hub:
            await hub.publish("orders", 1, connection=application)
            assert await texts(hub, 1) == [1]
        await application.close()

    run(main())


def test_what_is_in_a_transaction_overtakes_nothing_ephemeral_of_postgresql() -> None:
    async def main() -> None:
        url = postgres_database()
        application = await asyncpg.connect(url)
        limits = Limits(ephemeral_seconds=5.0)  # the commit comes long before the next beat
        async with Hub(url, limits=limits) as hub, Hub(url) as other, other.listen("orders") as publications:
            for n in range(60):
                await hub.publish("orders", ["typing", n], ephemeral=True)
                await hub.publish("orders", n, connection=application)
                async with asyncio.timeout(20):
                    assert [(await anext(publications)).json() for _ in range(2)] == [["typing", n], n]
        await application.close()

    run(main())


def test_two_hubs_share_a_file_and_no_publication(tmp_path: Path) -> None:
    async def main() -> None:
        database = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        async with Hub(f"sqlite:///{tmp_path / 'one.db'}") as one, Hub(f"sqlite:///{tmp_path / 'two.db'}") as two:
            for n in range(40):
                await one.publish("orders", ["one", n], connection=database)
                await two.publish("orders", ["two", n], connection=database)
            for hub, name in ((one, "one"), (two, "two")):
                assert await texts(hub, 40) == [[name, n] for n in range(40)]
            await two.publish("orders", "end", connection=database)
            assert (await texts(two, 41))[40:] == ["end"]
            assert len(await texts(one, 40)) == 40
        database.close()

    run(main())


def test_rows_and_lists_of_an_earlier_version_are_moved(tmp_path: Path) -> None:
    async def main() -> None:
        url, listed = f"sqlite:///{tmp_path / 'hub.db'}", tmp_path / "hub.db-outboxes"
        database = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        async with Hub(url) as hub:
            await hub.publish("orders", "now", connection=database)
            assert await texts(hub, 1) == ["now"]
        listed.write_text("".join(line for line in listed.read_text().splitlines(True) if "store" not in line))
        columns = "token, channel, format, data, key, key_age, meta"
        row = ("0f", "orders", 2, b'"then"', "", 300.0, b"")
        database.execute(f"INSERT INTO tidewire_outbox ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        async with Hub(url) as hub:
            assert await texts(hub, 2) == ["now", "then"]
            await hub.publish("orders", "again", connection=database)
            assert await texts(hub, 3) == ["now", "then", "again"]
        database.close()

    run(main())


def test_a_store_that_is_moved_without_its_list_publishes_what_was_committed_behind_it(tmp_path: Path) -> None:
    async def main() -> None:
        database = sqlite3.connect(tmp_path / "app.db")
        async with Hub(f"sqlite:///{tmp_path / 'hub.db'}") as hub:
            await hub.publish("orders", "before", connection=database)
            database.commit()
            assert await texts(hub, 1) == ["before"]
            await hub.publish("orders", "late", connection=database)
        database.commit()  # the hub is gone
        for end in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                (tmp_path / f"hub.db{end}").rename(tmp_path / f"moved.db{end}")
        async with Hub(f"sqlite:///{tmp_path / 'moved.db'}") as hub, Hub(f"sqlite:///{tmp_path / 'other.db'}") as other:
            await other.publish("orders", "of another", connection=database)
            await hub.publish("orders", "after", connection=database)
            database.commit()
            assert await texts(hub, 3) == ["before", "late", "after"]
            assert await texts(other, 1) == ["of another"]
        database.close()

    run(main())


def test_rows_of_a_hub_that_is_gone_are_not_read_again_and_again(tmp_path: Path) -> None:
    async def main() -> None:
        database = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        async with Hub(f"sqlite:///{tmp_path / 'hub.db'}") as hub:
            await hub.publish("orders", "a", connection=database)
            await texts(hub, 1)
        columns = "token, channel, format, data, key, key_age, meta"
        rows = [(f"gone:{n}", "orders", 2, b'"gone"', "", 300.0, b"") for n in range(20_000)]
        database.executemany(f"INSERT INTO tidewire_outbox ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        names = json.dumps(["0" * 12, "f" * 12])
        database.set_progress_handler(count, 1)
        for is_first in (True, False):
            steps = 0
            found = database.execute(SQL["transaction_rows"], {"names": names, "is_first": is_first, "count": 500})
            assert not found.fetchall()
            assert (steps > 20_000) is is_first
        assert steps < 1_000
        database.set_progress_handler(None, 1)
        database.close()

    run(main())
