"""Files that an operator cuts or writes over while they are open: what cannot be kept any more is not acknowledged."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from backends.sqlite.helpers import open_node
from backends.sqlite.test_operator import node_on
from engine.support import connect, run
from helpers.ledger import Ledger, check, received
from tidewire.backends.sqlite import file_check
from tidewire.backends.sqlite.checkpoint import Checkpointer
from tidewire.messages import HistoryRequest, PublishRequest


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def other_database(path: Path) -> Path:
    """Make a store with a few publications of its own."""
    other = path.with_name("other.db")

    async def fill() -> None:
        async with open_node(other) as node:
            for _ in range(7):
                await node.publish("a")

    asyncio.run(fill())
    return other


def empty(path: Path, _: Path) -> None:
    os.truncate(path, 0)


def empty_all(path: Path, _: Path) -> None:
    os.truncate(path, 0)
    os.truncate(log_of(path), 0)


def halve(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_head(path: Path, _: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(4_096))


def overwrite(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def rename_over(path: Path, other: Path) -> None:
    other.replace(path)


FAULTS = [empty, empty_all, halve, overwrite_head, overwrite, rename_over]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_a_file_that_is_cut_or_written_over_begins_a_new_epoch(
    tmp_path: Path, fault: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "chat.db"
    other_path = other_database(path)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            node, other = [await node_on(stack, path) for _ in range(2)]
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger, another = Ledger(node), Ledger(other)
            await ledger.publish(10)
            for client in (near, far):
                await received(client, ledger)
            before = ledger.last
            await asyncio.to_thread(fault, path, other_path)
            await ledger.succeeds(10)
            await another.succeeds(10)
            assert ledger.last.epoch == another.last.epoch != before.epoch
            for one in (node, other):
                page = await one.broker.history("a")
                kept = {(each.epoch, each.offset): each.data.decode() for each in page.publications}
                new = {at: text for at, text in (ledger.kept | another.kept).items() if at[0] != before.epoch}
                assert new.items() <= kept.items()
            # nothing was acknowledged into the file that was gone
            assert [at for at in (ledger.kept | another.kept) if at[0] == before.epoch] == list(ledger.kept)[:10]
            ledger.kept |= another.kept
            for client in (near, far):
                await received(client, another)
                check(client, ledger, told=True)
        async with AsyncExitStack() as stack:
            again = await node_on(stack, path)
            assert (await again.broker.history("a")).top.epoch == another.last.epoch

    run(scenario(), 40)


def test_a_log_that_is_cut_begins_a_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with open_node(path) as node:
            top = await node.broker.publish(PublishRequest("a", b"1"))
            kept = []
            os.truncate(log_of(path), 0)
            for _ in range(10):
                kept.append(await node.broker.publish(PublishRequest("a", b"2")))
            page = await node.broker.read(HistoryRequest("a"))
            shown = {(each.epoch, each.offset) for each in page.publications}
            lost = {(one.epoch, one.offset) for one in (top, *kept)} - shown
            assert not lost or (lost == {(top.epoch, 1)} and page.top.epoch != top.epoch)

    run(scenario(), 20)


def move_first_page(path: Path) -> None:
    """Do what a process has done that is killed while it moves the log into the file: the first page comes first."""
    with log_of(path).open("rb") as log, path.open("r+b") as file:
        log.seek(32)
        pages = 0
        while (frame := log.read(24 + 4_096)) and len(frame) == 24 + 4_096:
            if frame[:4] == bytes((0, 0, 0, 1)):
                file.seek(0)
                file.write(frame[24:])
                pages = int.from_bytes(frame[24 + 28 : 24 + 32], "big")
        assert pages * 4_096 > path.stat().st_size, "the file is shorter than it says"


def test_a_process_that_is_killed_while_it_moves_the_log_damages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            node, other = [await node_on(stack, path) for _ in range(2)]
            ledger, another = Ledger(node), Ledger(other)
            await ledger.publish(1)
            monkeypatch.setattr(file_check, "_SETTLE", 0.2)
            monkeypatch.setattr(Checkpointer, "_move", lambda self: 0)
            await node.broker.publish(PublishRequest("b", bytes(50_000)))
            await asyncio.to_thread(move_first_page, path)
            until = asyncio.get_running_loop().time() + 0.6
            while asyncio.get_running_loop().time() < until:
                await ledger.publish(1)
                await another.publish(1)
            assert not ledger.failures + another.failures
            assert {epoch for epoch, _ in ledger.kept} == {ledger.last.epoch}
        async with AsyncExitStack() as stack:
            again = await node_on(stack, path)
            page = await again.broker.history("a")
            assert len(page.publications) == len(ledger.kept) + len(another.kept)
            assert not path.with_name("chat.db-damaged").exists()

    run(scenario(), 20)


def shared_file(folder: Path) -> Path:
    """Return a file that has a table of an application."""
    path = folder / "chat.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id)")
    return path


def test_a_damaged_file_with_tables_of_an_application_is_left_alone(tmp_path: Path) -> None:
    path = shared_file(tmp_path)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            ledger = Ledger(await node_on(stack, path))
            await ledger.publish(5)
            await asyncio.to_thread(overwrite_head, path, path)
            await ledger.publish(2)
            assert len(ledger.kept) == 5
            assert all("cut or written over" in str(error) for error, _ in ledger.failures)
            assert not path.with_name("chat.db-damaged").exists()
            path.replace(tmp_path / "away.db")
            await ledger.succeeds(5)

    run(scenario(), 40)


def test_a_shared_file_that_is_emptied_has_nothing_to_leave_alone(tmp_path: Path) -> None:
    path = shared_file(tmp_path)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            ledger = Ledger(await node_on(stack, path))
            await ledger.publish(5)
            before = ledger.last
            await asyncio.to_thread(empty, path, path)
            await ledger.succeeds(5)
            assert ledger.last.epoch != before.epoch

    run(scenario(), 40)
