"""Publications in an application's own transactions: a row and its message, both or neither, each once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlmodel import Session as ModelSession

from helpers.hubs import run
from tidewire import ChannelOptions, ConfigurationError, Hub, Limits, Publications
from tidewire.backends.shared.waiting import WAITING_BYTES
from tidewire.backends.sqlite.transaction_mover import TransactionMover
from tidewire.testing import wait_until

TESTS = Path(__file__).parents[2]
INSERT = "INSERT INTO orders VALUES (1)"
LONG = {"orders": ChannelOptions(history_size=1_000_000)}


def hub_in(folder: Path, limits: Limits | None = None) -> Hub:
    return Hub(f"sqlite:///{folder / 'hub.db'}", channels=LONG, limits=limits)


def app_in(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "app.db", isolation_level=None)
    database.execute("CREATE TABLE IF NOT EXISTS orders (n INTEGER)")
    return database


async def take(publications: Publications, count: int) -> list[Any]:
    async with asyncio.timeout(15):
        return [(await anext(publications)).json() for _ in range(count)]


def waiting(folder: Path) -> int:
    """Return how many publications wait in the application's file."""
    with sqlite3.connect(folder / "app.db", timeout=20) as database:
        count: int = database.execute("SELECT count(*) FROM tidewire_outbox").fetchone()[0]
    return count


def _by_name(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip([column[0] for column in cursor.description], row, strict=True))


async def _sqlite3(path: str, publish: Callable[[object], Any], *, commits: bool) -> None:
    connection = sqlite3.connect(path)
    connection.row_factory, connection.text_factory = _by_name, bytes
    connection.execute(INSERT)
    await publish(connection)
    (connection.commit if commits else connection.rollback)()
    connection.close()


async def _aiosqlite(path: str, publish: Callable[[object], Any], *, commits: bool) -> None:
    async with aiosqlite.connect(path) as connection:
        connection.row_factory, connection.text_factory = _by_name, bytes
        await connection.execute(INSERT)
        await publish(connection)
        await (connection.commit() if commits else connection.rollback())


async def _sqlalchemy(path: str, publish: Callable[[object], Any], *, commits: bool, kind: Any = Session) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with kind(engine) as session:
        session.connection().execute(text(INSERT))
        await publish(session)
        (session.commit if commits else session.rollback)()
    engine.dispose()


async def _sqlmodel(path: str, publish: Callable[[object], Any], *, commits: bool) -> None:
    await _sqlalchemy(path, publish, commits=commits, kind=ModelSession)


async def _connection(path: str, publish: Callable[[object], Any], *, commits: bool) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.execute(text(INSERT))
        await publish(connection)
        (connection.commit if commits else connection.rollback)()
    engine.dispose()


async def _asynchronous(path: str, publish: Callable[[object], Any], *, commits: bool) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with AsyncSession(engine) as session:
        await session.execute(text(INSERT))
        await publish(session)
        await (session.commit() if commits else session.rollback())
    async with engine.connect() as connection:
        await connection.execute(text(INSERT))
        await connection.rollback()
    await engine.dispose()


@pytest.mark.parametrize("within", [_sqlite3, _aiosqlite, _sqlalchemy, _sqlmodel, _connection, _asynchronous])
def test_every_library_publishes_at_commit_and_never_after_a_rollback(tmp_path: Path, within: Any) -> None:
    async def main() -> None:
        database = app_in(tmp_path)
        async with hub_in(tmp_path) as hub, hub.listen("orders") as publications:

            async def publish(connection: object, data: object) -> None:
                assert await hub.publish("orders", data, connection=connection) is None

            path = str(tmp_path / "app.db")
            await within(path, lambda connection: publish(connection, "no: 100 % :x"), commits=False)
            await within(path, lambda connection: publish(connection, "yes: 100 % :x"), commits=True)
            assert await take(publications, 1) == ["yes: 100 % :x"]
            await wait_until(lambda: waiting(tmp_path) == 0)
            assert database.execute("SELECT count(*) FROM orders").fetchone() == (1,)
            assert len((await hub.history("orders")).publications) == 1
        with sqlite3.connect(tmp_path / "hub.db") as store:  # what was remembered of the row has gone with it
            assert store.execute("SELECT count(*) FROM tidewire_keys").fetchone() == (0,)
        database.close()

    run(main())


def test_a_transaction_that_begins_with_a_publication_may_write_behind_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its publish read something first, and raised "database is locked" where another connection had committed."""
    expect = TransactionMover.expect

    async def meanwhile(mover: TransactionMover, file: Path) -> str:
        with contextlib.closing(app_in(tmp_path)) as another:
            another.execute(INSERT)
        return await expect(mover, file)

    async def main() -> None:
        monkeypatch.setattr(TransactionMover, "expect", meanwhile)
        async with hub_in(tmp_path) as hub, hub.listen("orders") as publications:
            with contextlib.closing(app_in(tmp_path)) as database:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("BEGIN")
                await hub.publish("orders", 1, connection=database)
                database.execute("COMMIT")
            assert await take(publications, 1) == [1]

    run(main())


def test_publications_keep_the_order_of_their_commits(tmp_path: Path) -> None:
    async def main() -> None:
        database = app_in(tmp_path)
        database.execute("PRAGMA journal_mode = WAL")
        async with hub_in(tmp_path) as hub, hub_in(tmp_path) as other, other.listen("orders") as publications:
            for n in range(200):
                database.execute("BEGIN")
                for part in range(3):
                    await (hub if part else other).publish("orders", [n, part], connection=database)
                database.execute("ROLLBACK" if n % 5 == 0 else "COMMIT")
            wanted = [[n, part] for n in range(200) if n % 5 for part in range(3)]
            assert await take(publications, len(wanted)) == wanted
        database.close()

    run(main())


def test_what_is_in_a_transaction_overtakes_nothing_ephemeral(tmp_path: Path) -> None:
    async def main() -> None:
        database = app_in(tmp_path)
        limits = Limits(ephemeral_seconds=5.0)  # the commit comes long before the next beat
        async with hub_in(tmp_path, limits) as hub, hub_in(tmp_path) as other, other.listen("orders") as publications:
            await hub.publish("orders", "first", ephemeral=True)
            assert await take(publications, 1) == ["first"]
            for n in range(3):
                await hub.publish("orders", ["typing", n], ephemeral=True)
                await hub.publish("orders", n, connection=database)
                assert await take(publications, 2) == [["typing", n], n]
        database.close()

    run(main())


def test_a_key_is_kept_once(tmp_path: Path) -> None:
    async def main() -> None:
        database = app_in(tmp_path)
        async with hub_in(tmp_path) as hub, hub.listen("orders") as publications:
            for data in ("first", "again"):
                await hub.publish("orders", data, key="k", connection=database)
            await hub.publish("orders", "last", connection=database)
            assert await take(publications, 2) == ["first", "last"]
        database.close()

    run(main())


@pytest.mark.parametrize("key", ["", "k"])
def test_a_row_that_cannot_be_removed_is_published_once_whatever_becomes_of_its_key(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        database = app_in(tmp_path)
        database.execute("PRAGMA journal_mode = WAL")
        async with hub_in(tmp_path) as hub, hub.listen("orders") as publications:
            database.execute("BEGIN")
            await hub.publish("orders", "first", key=key, connection=database)
            database.execute("UPDATE tidewire_outbox SET key_age = 0.01")
            database.execute("COMMIT")
            database.execute("BEGIN IMMEDIATE")  # a long one, as an import: nobody else can write
            assert await take(publications, 1) == ["first"]
            await wait_until(lambda: "cannot be moved now: database is locked" in caplog.text)  # its key is over
            database.execute("COMMIT")
            await wait_until(lambda: waiting(tmp_path) == 0)
            await hub.publish("orders", "last", connection=database)
            assert await take(publications, 1) == ["last"]
        with sqlite3.connect(tmp_path / "hub.db") as store:
            assert store.execute("SELECT count(*) FROM tidewire_keys WHERE key LIKE 'outbox:%'").fetchone() == (0,)
        database.close()

    run(main())


def test_what_cannot_be_published_within_a_transaction_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with hub_in(tmp_path) as hub:
            with pytest.raises(ConfigurationError, match="sqlite3, aiosqlite or SQLAlchemy"):
                await hub.publish("orders", 1, connection=object())
            with pytest.raises(ConfigurationError, match="has no file"):
                await hub.publish("orders", 1, connection=sqlite3.connect(":memory:"))
            foreign = await asyncio.to_thread(sqlite3.connect, tmp_path / "app.db")
            with pytest.raises(ConfigurationError, match="check_same_thread=False"):
                await hub.publish("orders", 1, connection=foreign)
            assert not (tmp_path / "hub.db-outboxes").exists()
            await hub.publish("orders", 1, connection=sqlite3.connect(tmp_path / "app.db", isolation_level=None))
            await wait_until(lambda: waiting(tmp_path) == 0)
        (tmp_path / "app.db").unlink()
        async with hub_in(tmp_path) as hub:  # a file that has gone is no trouble, and is not made again
            await hub.publish("orders", 2)
        assert not (tmp_path / "app.db").exists()

    run(main())


def test_more_than_may_wait_for_the_store_is_moved_in_turns_and_leaves_room_for_others(tmp_path: Path) -> None:
    async def main() -> None:
        database = app_in(tmp_path)
        count = 20
        data = "x" * (WAITING_BYTES // count + 1)
        async with hub_in(tmp_path) as hub:
            database.execute("BEGIN")
            for _ in range(count):
                await hub.publish("orders", data, connection=database)
            database.execute("COMMIT")
            async with asyncio.timeout(60):
                while (await hub.position("orders")).offset < count:
                    await hub.publish("others", 1)  # refused while too much waits
            await wait_until(lambda: waiting(tmp_path) == 0)
            assert (await hub.position("orders")).offset == count
        database.close()

    run(main(), 90)


def test_a_file_that_cannot_be_moved_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with hub_in(tmp_path) as hub, hub.listen("orders") as publications:
            for name in ("first.db", "second.db"):
                database = sqlite3.connect(tmp_path / name, isolation_level=None)
                await hub.publish("orders", name, connection=database)
                assert await take(publications, 1) == [name]
                database.close()
            (tmp_path / "first.db").write_bytes(b"no database" * 1_000)
            await wait_until(lambda: "cannot be moved now: file is not a database" in caplog.text)
            database = sqlite3.connect(tmp_path / "second.db", isolation_level=None)
            await hub.publish("orders", "after", connection=database)
            assert await take(publications, 1) == ["after"]
            database.close()

    run(main())


async def prepare(folder: Path) -> None:
    """Let a hub know the application's file, which has a table and has seen one message."""
    async with hub_in(folder) as hub:
        with contextlib.closing(sqlite3.connect(folder / "app.db")) as database, database:
            database.execute("CREATE TABLE orders (n INTEGER PRIMARY KEY AUTOINCREMENT)")
            n = database.execute("INSERT INTO orders DEFAULT VALUES").lastrowid
            await hub.publish("orders", n, connection=database)


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kills", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_kill_leaves_never_one_without_the_other(tmp_path: Path, kills: int) -> None:
    folders = [tmp_path / name for name in "ab"]
    with contextlib.ExitStack() as stack:
        nurseries = []
        for folder in folders:
            folder.mkdir()
            run(prepare(folder))
            worker = [
                sys.executable,
                "-m",
                "backends.sqlite.transaction_worker",
                str(folder),
                str(kills // len(folders)),
            ]
            nurseries.append(stack.enter_context(subprocess.Popen(worker, cwd=TESTS)))
        assert [nursery.wait() for nursery in nurseries] == [0, 0]

    async def main(folder: Path) -> None:
        async with hub_in(folder) as hub:
            await wait_until(lambda: waiting(folder) == 0, 20)
            page = await hub.history("orders")
        with sqlite3.connect(folder / "app.db") as database:
            rows = [n for (n,) in database.execute("SELECT n FROM orders ORDER BY n")]
        assert [publication.json() for publication in page.publications] == rows
        assert len(rows) > kills // 4

    for folder in folders:
        run(main(folder))
