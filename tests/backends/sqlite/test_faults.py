"""Full, read-only and broken disks, locked and damaged files."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from requirements import require
from tidewire.backends.sqlite import SqliteBroker, SqlitePresence
from tidewire.backends.sqlite.file_errors import opening_error
from tidewire.errors import ConfigurationError, NotPublished, PublishError, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Member, PublishRequest
from tidewire.retention import Retention
from tidewire.testing import wait_until
from tidewire.testing.contract_store import Node

from .helpers import ManualClock, open_node

ALL = Retention(1_000_000, 1e9)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    require(_mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)), "the right to mount a tmpfs (run as root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def _fill(node: Node) -> tuple[int, str]:
    """Publish until the disk is full; return the last offset that was acknowledged, and the error."""
    last = 0
    while True:
        try:
            last = await node.publish("a", b"x" * 20_000, retention=ALL)
        except NotPublished as error:
            return last, str(error)


def test_a_full_disk_fails_publishing_alone_and_heals(small_disk: Path) -> None:
    path = small_disk / "chat.db"

    async def run() -> None:
        presence = SqlitePresence(path)
        await presence.start("one")
        async with open_node(path) as node:
            await node.broker.subscribe("a")
            last, error = await _fill(node)
            assert f"the disk that holds {path} is full; free some space" in error
            page = await node.broker.history("a")
            assert [publication.offset for publication in page.publications] == list(range(1, last + 1))
            assert (await node.broker.subscribe("new")).offset == 0
            for n in range(200):
                assert (await presence.join("a", Member(str(n), f"user {n}"))).first
            assert _mount("-o", "remount,size=8m", str(small_disk))
            assert await node.publish("a", b"y" * 100_000, retention=ALL) == last + 1
            await wait_until(lambda: node.offsets("a") == list(range(1, last + 2)))
        await presence.aclose()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    asyncio.run(run())


def test_old_messages_make_room_on_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "chat.db"
    clock = ManualClock()

    async def run() -> None:
        async with open_node(path, clock=clock) as node:
            last, _ = await _fill(node)
            few = Retention(10, 1e9)
            clock.pass_time(3_600)

            async def is_kept(channel: str, data: bytes) -> bool:
                clock.pass_time(5)
                try:
                    return await node.publish(channel, data, retention=few) > 0
                except NotPublished:
                    return False

            await wait_until(lambda: is_kept("a", b"y"), what="the log was moved, so a small message has room")
            for _ in range(20):
                await wait_until(lambda: is_kept("b", b"x" * 20_000), what="what was removed has made room")
            left = [publication.offset for publication in (await node.broker.history("a")).publications]
            assert left[0] > 1
            assert left[-1] == last + 1

    asyncio.run(run())


def test_a_foreign_lock_fails_publishing_in_time_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        async with open_node(path, publish_seconds=0.6) as node:
            await node.publish("a")
            with sqlite3.connect(path, isolation_level=None) as foreign:
                foreign.execute("BEGIN IMMEDIATE")
                with pytest.raises(NotPublished, match="locked by another program"):
                    await node.publish("a")
                assert (await node.broker.history("a")).top.offset == 1
                foreign.execute("ROLLBACK")
            foreign.close()
            assert await node.publish("a") == 2

    asyncio.run(run())


@pytest.mark.parametrize("make", [lambda path: SqliteBroker(path, Limits())], ids=["broker"])
def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "chat.db"
    path.write_bytes(b"this is no database. " * 100)

    async def run() -> None:
        with pytest.raises(ConfigurationError) as caught:
            await make(path).start(print)
        assert str(caught.value) == f"{path} is not an SQLite database; name another file, or move that one away"

    asyncio.run(run())
    assert path.read_bytes() == b"this is no database. " * 100


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "chat.db"

    async def run() -> None:
        for start in (SqliteBroker(path, Limits()).start(print), SqlitePresence(path).start("one")):
            with pytest.raises(ConfigurationError, match=f"folder {path.parent} must exist") as caught:
                await start
            assert "\n" not in str(caught.value)

    asyncio.run(run())


def test_a_disk_that_cannot_be_written_is_refused_in_one_line(small_disk: Path) -> None:
    path = small_disk / "chat.db"

    async def run() -> None:
        async with open_node(path) as node:
            await node.publish("a")
        assert _mount("-o", "remount,ro", str(small_disk))
        with pytest.raises(ConfigurationError, match="writable") as caught:
            await SqliteBroker(path, Limits()).start(print)
        assert "\n" not in str(caught.value)
        assert _mount("-o", "remount,rw", str(small_disk))
        async with open_node(path) as node:
            assert await node.publish("a") == 2

    asyncio.run(run())


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        async with open_node(path):
            pass
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE tidewire_store SET version = 99")
        connection.close()
        with pytest.raises(ConfigurationError, match="layout 99"):
            await SqliteBroker(path, Limits()).start(print)

    asyncio.run(run())


def test_a_file_that_breaks_while_open_heals_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        async with open_node(path, publish_seconds=0.5) as node:
            await node.broker.subscribe("a")
            await node.publish("a")
            with sqlite3.connect(path) as connection:
                connection.execute("ALTER TABLE tidewire_publications RENAME TO away")
            connection.close()
            with pytest.raises(NotPublished):
                await node.publish("a")
            with pytest.raises(StoreUnavailable):
                await node.broker.history("a")
            with sqlite3.connect(path) as connection:
                connection.execute("ALTER TABLE away RENAME TO tidewire_publications")
            connection.close()

            async def is_back() -> bool:
                try:
                    return await node.publish("a") == 2
                except NotPublished:
                    return False

            await wait_until(is_back)
            await wait_until(lambda: node.offsets("a") == [1, 2])

    asyncio.run(run())


def test_a_file_that_was_replaced_is_used_anew(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        resumed: list[bool] = []
        async with open_node(path, resumed=lambda: resumed.append(True)) as node:
            before = await node.broker.subscribe("a")
            await node.publish("a")
            assert (await node.broker.history("a")).top.offset == 1
            for suffix in ("", "-wal", "-shm"):
                os.unlink(f"{path}{suffix}")

            async def is_new() -> bool:
                try:
                    return (await node.broker.publish(PublishRequest("a", b""))).epoch != before.epoch
                except PublishError:
                    return False

            await wait_until(is_new)
            assert path.exists()
            assert resumed == [True]
            page = await node.broker.history("a")
            assert (page.top.offset, page.top.epoch) == (
                len(page.publications),
                (await node.broker.subscribe("a")).epoch,
            )

    asyncio.run(run())


def test_a_damaged_presence_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    (tmp_path / "chat.db-presence").write_bytes(b"damaged " * 1_000)

    async def run() -> None:
        presence = SqlitePresence(path)
        await presence.start("one")
        assert (await presence.join("a", Member("1", "ann"))).first
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"chat.db-presence{suffix}").unlink()

        async def is_lost() -> bool:
            try:
                return not await presence.touch()
            except StoreUnavailable:
                return False

        await wait_until(is_lost)
        assert (await presence.join("a", Member("1", "ann"))).first
        await presence.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("number", "mend", "is_lasting"),
    [
        (errno.ENOENT, "must exist", True),
        (errno.EACCES, "writable", True),
        (errno.EINVAL, "open, lock and write", False),
        (errno.EMFILE, "open, lock and write", False),
    ],
)
def test_the_system_error_decides_how_to_mend_it(tmp_path: Path, number: int, mend: str, is_lasting: bool) -> None:
    error = opening_error(OSError(number, os.strerror(number)), tmp_path / "chat.db")
    assert mend in str(error)
    assert os.strerror(number) in str(error)
    assert isinstance(error, ConfigurationError) is is_lasting
