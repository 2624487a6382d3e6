"""Parts of the file that an operator removes: made again, and every subscriber that missed something is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from contract.serving import until
from engine.support import Client, connect, run
from helpers.ledger import RULES, Ledger, check, received
from tidewire.backends import open_backend
from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Position, PublishRequest
from tidewire.rules.options_by_name import OptionsByName
from tidewire.testing import wait_until

#: Publications or their positions are gone: a new epoch.
LOSSES = [
    "DELETE FROM tidewire_channels",
    "DROP TABLE tidewire_channels",
    "DROP TABLE tidewire_publications",
    "; ".join(f"DROP TABLE tidewire_{name}" for name in ("channels", "publications", "store", "keys")),
    "ALTER TABLE tidewire_publications DROP COLUMN meta",
    "ALTER TABLE tidewire_channels RENAME COLUMN top TO tip",
]
#: Rows of channels that nodes remember are changed: a new epoch, too.
CHANGES = [
    "UPDATE tidewire_channels SET name = 'z' WHERE name = 'a'",
    "UPDATE tidewire_channels SET top = 5",
    "UPDATE tidewire_channels SET top = 50",
    "UPDATE tidewire_channels SET epoch = 'other'",
]
#: Nothing is gone that a subscriber could miss.
HARMLESS = [
    "DELETE FROM tidewire_keys",
    "DROP TABLE tidewire_keys",
    "DELETE FROM tidewire_store",
    "DROP INDEX tidewire_publications_by_offset",
    "DROP INDEX tidewire_keys_by_expiry; ALTER TABLE tidewire_keys DROP COLUMN expires",
    "UPDATE sqlite_sequence SET seq = 9223372036854775807",
]
#: An index that cannot be made again.
TWICE = """
DROP INDEX tidewire_publications_by_offset;
INSERT INTO tidewire_publications
SELECT id + 9, channel, "offset", time, kept, format, data, meta FROM tidewire_publications
"""

COUNT = """
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM tidewire_publications").fetchone())
"""


def operate(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        connection.executescript(statements)


async def node_on(stack: AsyncExitStack, path: Path) -> Node:
    broker, presence = open_backend(f"sqlite:///{path}", Limits())
    node = Node(broker, presence, options=OptionsByName(RULES))
    await node.start()
    stack.push_async_callback(node.aclose)
    return node


async def in_use(stack: AsyncExitStack, path: Path) -> tuple[Ledger, list[Client]]:
    """Return what was published on one of two nodes, and a client of each, which has received it."""
    nodes = [await node_on(stack, path) for _ in range(2)]
    clients = [await connect(node, channel="a") for node in nodes]
    ledger = Ledger(nodes[0])
    await ledger.publish(10)
    for client in clients:
        await received(client, ledger)
    return ledger, clients


@pytest.mark.parametrize(
    ("statements", "told"), [*((one, True) for one in LOSSES + CHANGES), *((one, False) for one in HARMLESS)]
)
def test_what_is_removed_is_made_again_and_told(tmp_path: Path, statements: str, told: bool) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            ledger, clients = await in_use(stack, path)
            before = ledger.last
            await asyncio.to_thread(operate, path, statements)
            await ledger.succeeds(10)
            assert ledger.were_sure
            for client in clients:
                await received(client, ledger)
                check(client, ledger, told=told)
            assert (ledger.last.epoch != before.epoch) is told
        async with AsyncExitStack() as stack:  # a restart finds nothing to complain of
            again = await node_on(stack, path)
            page = await again.broker.history("a", since=Position(ledger.last.offset - 1, ledger.last.epoch))
            assert (page.complete, [one.offset for one in page.publications]) == (True, [ledger.last.offset])

    run(scenario(), 30)


@pytest.mark.parametrize(
    "statements",
    [
        "DROP TABLE tidewire_store",
        "DELETE FROM tidewire_store",
        "ALTER TABLE tidewire_store RENAME COLUMN seed TO root",
        "DROP TABLE tidewire_publications",
        "; ".join(f"DROP TABLE tidewire_{name}" for name in ("channels", "publications", "store", "keys")),
    ],
)
def test_what_is_removed_from_the_file_itself_is_made_again_and_tables_of_others_stay(
    tmp_path: Path, statements: str
) -> None:
    """The log was moved into the file before any node saw it, as after much else that an operator does."""
    path = tmp_path / "chat.db"
    operate(path, "CREATE TABLE mine (value)")

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            ledger, clients = await in_use(stack, path)
            operate(path, f"INSERT INTO mine VALUES (1); {statements}; PRAGMA wal_checkpoint(TRUNCATE)")
            await ledger.succeeds(10)
            for client in clients:
                await received(client, ledger)
                check(client, ledger, told="publications" in statements)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT value FROM mine").fetchall() == [(1,)]

    run(scenario(), 30)
    assert not [*tmp_path.glob("*damaged*")]


def spoil(path: Path) -> None:
    """Write over pages of publications, as a copy does that mixes with the log of another state."""
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        until(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, what="moved")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'tidewire_publications_by_offset'"
        (page,) = connection.execute(query).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def test_what_cannot_be_read_is_not_published_into(tmp_path: Path) -> None:
    """Publishing went on in the other pages, and whoever had to read stood still, unnoticed."""
    alone, shared = tmp_path / "alone.db", tmp_path / "shared.db"
    operate(shared, "CREATE TABLE mine (value)")

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            node, other = [await node_on(stack, alone) for _ in range(2)]
            clients, ledger = [await connect(one, channel="a") for one in (node, other)], Ledger(node)
            await ledger.publish(10)
            spoil(alone)
            with contextlib.suppress(StoreUnavailable):
                await other.broker.history("a", since=Position(2, ledger.last.epoch))
            for client in clients:  # a new file is made
                await wait_until(lambda client=client: "i a" in client.shown, 15)  # type: ignore[misc]
            await ledger.succeeds(10)
            for client in clients:
                await received(client, ledger)
                check(client, ledger, told=True)

            node = await node_on(stack, shared)
            await node.broker.publish(PublishRequest("a", b"1"))
            spoil(shared)

            async def is_refused() -> bool:
                with contextlib.suppress(StoreUnavailable):
                    await node.broker.history("a")
                try:
                    await node.broker.publish(PublishRequest("b", b"1"))
                except PublishError as error:
                    return "restore it from a backup, or move it away" in str(error)
                return False

            await wait_until(is_refused, 15)

    run(scenario(), 60)
    assert [*tmp_path.glob("alone.db-damaged")]
    assert not [*tmp_path.glob("shared.db-damaged")]


def test_a_restart_mends_what_was_removed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        for statements in (*LOSSES, TWICE):
            async with AsyncExitStack() as stack:
                node = await node_on(stack, path)
                before = await node.broker.publish(PublishRequest("a", b"1"))
            operate(path, statements)
            async with AsyncExitStack() as stack:
                node = await node_on(stack, path)
                after = await node.broker.publish(PublishRequest("a", b"2"))
                assert after.epoch != before.epoch
                assert not (await node.broker.history("a", since=before)).complete

    run(scenario(), 30)


def test_a_hole_in_a_history_is_told(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            broker = (await node_on(stack, path)).broker
            for number in range(10):
                top = await broker.publish(PublishRequest("a", b"%d" % number))
            operate(path, 'DELETE FROM tidewire_publications WHERE "offset" IN (4, 5)')
            for offset, complete in ((1, False), (3, False), (4, False), (5, True), (9, True), (10, True)):
                page = await broker.history("a", since=Position(offset, top.epoch))
                assert page.complete is complete, offset
            assert not (await broker.history("a", since=Position(8, top.epoch), reverse=True)).complete
            assert (await broker.history("a", since=Position(8, top.epoch), reverse=True, limit=2)).complete

    run(scenario(), 30)


def test_a_backup_that_is_put_back_while_nodes_are_connected_is_told(tmp_path: Path) -> None:
    """SQLite's own way to restore writes into the file that everybody has open."""
    path, backup = tmp_path / "chat.db", tmp_path / "backup.db"

    def copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target, timeout=10)) as another:
            one.backup(another)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            node, other = [await node_on(stack, path) for _ in range(2)]
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            await ledger.publish(5)
            await asyncio.to_thread(copy, path, backup)
            await ledger.publish(5)
            for client in (near, far):
                await received(client, ledger)
            before = ledger.last
            await asyncio.to_thread(copy, backup, path)
            await ledger.succeeds(10)
            assert ledger.were_sure
            assert ledger.last.epoch != before.epoch
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger, told=True)

    run(scenario(), 30)


def test_one_backup_that_is_put_back_twice_gives_no_offset_twice(tmp_path: Path) -> None:
    path, backup = tmp_path / "chat.db", tmp_path / "backup.db"

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            node, other = [await node_on(stack, path) for _ in range(2)]
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)  # it fails where a position is given twice
            await ledger.publish(5)
            await asyncio.to_thread(operate, path, f"VACUUM INTO '{backup}'")
            await ledger.publish(5)
            for _ in range(3):
                before = ledger.last
                await asyncio.to_thread(shutil.copy, backup, tmp_path / "copy.db")
                os.replace(tmp_path / "copy.db", path)
                await ledger.succeeds(10)
                assert ledger.last.epoch != before.epoch
                assert not (await other.broker.history("a", since=before)).complete
                for client in (near, far):
                    await received(client, ledger)
            for client in (near, far):
                check(client, ledger, told=True)
        os.replace(backup, path)  # while nobody has it open
        async with AsyncExitStack() as stack:
            top = await (await node_on(stack, path)).broker.publish(PublishRequest("a", b"1"))
            assert top.epoch not in {epoch for epoch, _ in ledger.kept}

    run(scenario(), 60)


def remove(path: Path, ends: tuple[str, ...]) -> None:
    for end in ends:
        path.with_name(f"{path.name}{end}").unlink()


@pytest.mark.parametrize("ends", [("-wal",), ("-wal", "-shm")])
def test_a_log_that_is_removed_costs_no_publication(tmp_path: Path, ends: tuple[str, ...]) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            # of one process all have one index, for as long as one of them has it open
            node = await node_on(stack, path)
            other = node if "-shm" in ends else await node_on(stack, path)
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger, another = Ledger(node), Ledger(other, "b")
            for _ in range(3):
                await ledger.publish(10)
                await node.broker.history("a")  # a reader has the file open, too
                remove(path, ends)
                await ledger.succeeds(10)
                await another.succeeds(10)

            async def is_whole() -> bool:
                try:
                    pages = [await one.broker.history(channel) for one in (node, other) for channel in "ab"]
                except StoreUnavailable:
                    return False
                return [len(page.publications) for page in pages] == 2 * [len(ledger.kept), len(another.kept)]

            await wait_until(is_whole, 10)
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger)
            # another process finds all of it
            found = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", COUNT, str(path)],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert int(found.stdout) == len(ledger.kept) + len(another.kept), found.stderr

    run(scenario(), 60)
