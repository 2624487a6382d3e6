"""Files that an operator cuts or writes over while they are open: what cannot be kept any more is not acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
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
from tidewire.errors import PublishError
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


#: SQLite's shared lock of a file, as another process sees it (sqlite.org/src/file/src/os.h).
LOCKED = """
import fcntl, os, struct, sys
lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0x40000002, 510, 0)
found = fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_GETLK, lock)
print(struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the lock is laid out as Linux does")
def test_a_look_at_the_file_does_not_end_the_locks_of_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with open_node(path) as node:
            monkeypatch.setattr(Checkpointer, "_move", lambda self: 0)
            await node.broker.publish(PublishRequest("a", bytes(50_000)))
            parts = [inspect.getsource(each) for each in (log_of, move_first_page)]
            move = f"from pathlib import Path\n{''.join(parts)}\nmove_first_page(Path({str(path)!r}))"
            await asyncio.to_thread(subprocess.check_output, [sys.executable, "-S", "-c", move])
            await node.broker.publish(PublishRequest("a", b"1"))
            command = [sys.executable, "-S", "-c", LOCKED, str(path)]
            assert (await asyncio.to_thread(subprocess.check_output, command)).strip() == b"True"
            assert path in file_check._DESCRIPTORS, "it has looked"

    run(scenario(), 20)


def test_a_file_that_cannot_be_opened_now_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"

    def refuse(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"{tmp_path.as_uri()}/none/none.db?mode=ro", uri=True)  # as without descriptors

    async def scenario() -> None:
        async with open_node(path) as node:
            before = await node.broker.publish(PublishRequest("a", b"1"))
            monkeypatch.setattr(file_check, "_SETTLE", 0.05)
            monkeypatch.setattr(file_check, "_open", refuse)
            os.utime(path)
            for _ in range(10):
                after = await node.broker.publish(PublishRequest("a", b"2"))
                await asyncio.sleep(0.02)
            assert (after.epoch, after.offset) == (before.epoch, before.offset + 10)

    run(scenario(), 20)
    assert not list(tmp_path.glob("*damaged*"))


def test_a_file_is_kept_that_can_be_read_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.db"

    async def scenario() -> None:
        async with open_node(path) as node:
            monkeypatch.setattr(Checkpointer, "_move", lambda self: 0)
            before = await node.broker.publish(PublishRequest("a", b"1"))
            monkeypatch.setattr(file_check, "_SETTLE", 0.05)
            monkeypatch.setattr(file_check, "_read_mark", lambda path: ("0" * 32, 0))  # as in the middle of a VACUUM
            os.utime(path)
            while True:
                with contextlib.suppress(PublishError):
                    after = await node.broker.publish(PublishRequest("a", b"2"))
                    break
            assert (after.epoch, after.offset) == (before.epoch, before.offset + 1)

    run(scenario(), 20)
    assert not list(tmp_path.glob("*damaged*"))


def test_a_file_that_is_moved_takes_its_log_with_it(tmp_path: Path) -> None:
    path, moved = tmp_path / "chat.db", tmp_path / "moved.db"

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            ledger = Ledger(await node_on(stack, path))
            await ledger.publish(20)
            path.rename(moved)
            before = ledger.last
            await ledger.succeeds()
            assert ledger.last.epoch != before.epoch
        with closing(sqlite3.connect(moved)) as connection:
            assert connection.execute("SELECT count(*) FROM tidewire_publications").fetchone() == (20,)

    run(scenario(), 20)


def test_a_new_file_beside_the_guard_of_an_old_one_is_not_taken_for_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"
    monkeypatch.setattr(file_check, "_SETTLE", 0.05)

    async def scenario() -> None:
        async with open_node(path) as node:
            await node.publish("a")
        path.unlink()
        async with open_node(path) as node:
            os.utime(path)
            await node.broker.subscribe("a")
            await asyncio.sleep(0.1)
            os.utime(path)
            await node.broker.subscribe("b")
            assert await node.publish("a") == 1
        assert not [record.message for record in caplog.records if record.levelno >= logging.WARNING]

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


def test_a_damaged_file_that_is_left_alone_is_read_whole_again_only_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared_file(tmp_path)
    prove = file_check.FileCheck._prove
    proofs: list[file_check.FileState] = []

    def counted(check: file_check.FileCheck) -> file_check.FileState:
        proofs.append(prove(check))
        return proofs[-1]

    monkeypatch.setattr(file_check.FileCheck, "_prove", counted)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            ledger = Ledger(await node_on(stack, path))
            await ledger.publish(5)
            sound = path.read_bytes()
            await asyncio.to_thread(overwrite_head, path, path)
            while file_check.FileState.DAMAGED not in proofs:
                await ledger.publish(1)
            before = len(proofs)
            await ledger.publish(3)
            assert len(ledger.kept) == 5
            assert len(proofs) <= before + 1
            with path.open("r+b") as file:  # the operator mends it in its place
                file.write(sound)
            await ledger.succeeds(5)

    run(scenario(), 60)


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
