"""A disk that is full, hangs, or turns read-only under a server, and a copy of its files at a random moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.sqlite.helpers import WorkerProcess
from contract.serving import Server, until
from engine.support import run
from helpers.ledger import Ledger

from .crowd import CHANNEL, KEY, ApiPublisher, Crowd
from .disks import Disk, ext4_disk, remount, small_disk
from .serving import serving
from .test_brokers import undisturbed


def test_a_full_disk_fails_publishing_alone_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, serving(tmp_path / "run", f"sqlite:///{disk}/faults.db") as server:

        async def scenario() -> None:
            crowd = Crowd(server, followers=4, chatters=2)
            async with crowd.following(), undisturbed(server, crowd):
                publisher = ApiPublisher(server)
                await _fill(publisher)
                await crowd.publish_fails(10, times=0)  # trimming makes room for a small one now and then
                assert "the store cannot keep this now; try again" in str(crowd.api.failures[-1][0])
                assert "is full; free some space" in server.log(), "the operator is told why"
                assert _history(server)[-1:], "reading goes on"
                await asyncio.to_thread(remount, disk, "size=32m")
                await publisher.aclose()

        run(scenario(), 60)


async def _fill(publisher: ApiPublisher) -> None:
    """Publish elsewhere until there is no room, and then smaller ones."""
    for size in (30_000, 1_000, 1):
        ledger = Ledger(publisher, "fault:b")
        publisher.id = "x" * size
        while not ledger.failures:
            await ledger.publish()


@pytest.mark.slow
def test_a_disk_that_hangs_fails_publishing_in_time(tmp_path: Path) -> None:
    with ext4_disk(tmp_path) as disk, serving(tmp_path / "run", f"sqlite:///{disk.folder}/faults.db") as server:

        async def scenario() -> None:
            crowd = Crowd(server, followers=4, chatters=2)
            async with crowd.following(), undisturbed(server, crowd):
                disk.freeze()
                await crowd.publish_fails(6, after=2.8)  # publish_seconds, and a busy machine
                await crowd.readiness(503, 15)
                disk.thaw()

        try:
            run(scenario(), 60)
        finally:
            disk.thaw()


@pytest.mark.slow
def test_a_disk_that_turns_read_only_fails_publishing_alone(tmp_path: Path) -> None:
    """What it was given before is read, and there when the server is started on the mended disk."""
    with ext4_disk(tmp_path) as disk, serving(tmp_path / "run", f"sqlite:///{disk.folder}/faults.db") as server:

        async def scenario() -> None:
            crowd = Crowd(server, followers=4, chatters=2)
            async with crowd.following():
                people = await crowd.present()
                async with crowd.publishing():
                    await crowd.succeeds()
                    disk.break_()
                    await crowd.publish_fails(6)
                    await crowd.readiness(503, 15)
                    assert crowd.api.kept
                    assert len(_history(server)) == len(crowd.api.kept), "reading goes on"
                    assert await crowd.present() == people
                    await asyncio.to_thread(_mend, disk, server)
                    await crowd.succeeds(within=30)
                await crowd.check()
                await crowd.presence_is_true(15)

        run(scenario(), 90)


def _mend(disk: Disk, server: Server) -> None:
    server.kill()
    disk.repair()
    server.start()


def _history(server: Server) -> list[str]:
    """Return what history shows of the channel, the oldest first."""
    asked = {"channel": CHANNEL, "limit": 20_000}
    answer = server.http.post("/api/history", json=asked, headers=KEY).json()
    return [publication["data"] for publication in answer["result"]["publications"]]


@pytest.fixture
def seed() -> int:
    """What the moments of a test are drawn from; pytest shows it when the test fails."""
    return random.randrange(2**32)


@pytest.mark.parametrize("copies", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_copy_of_the_files_at_a_random_moment_opens_and_misses_nothing(
    tmp_path: Path, seed: int, copies: int
) -> None:
    chance = random.Random(seed)
    with flooding(tmp_path / "store.db") as (worker, acknowledged):
        for number in range(copies):
            time.sleep(chance.uniform(0, 0.1))
            known, copy = dict(acknowledged), tmp_path / f"copy{number}"
            copy.mkdir()
            worker.process.send_signal(signal.SIGSTOP)  # all files are of one moment
            for file in tmp_path.glob("store.db*"):
                if file.is_file():
                    shutil.copy(file, copy)
            worker.process.send_signal(signal.SIGCONT)
            assert_kept(copy / "store.db", known)


def test_a_power_cut_at_a_random_moment_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    """The file system forgets all that was not yet written to the disk."""
    with ext4_disk(tmp_path) as disk:
        path = disk.folder / "store.db"
        with flooding(path) as (_, acknowledged):
            time.sleep(random.Random(seed).uniform(0, 1))
            disk.cut_power()
        disk.repair()
        assert_kept(path, acknowledged)


@contextlib.contextmanager
def flooding(path: Path) -> Iterator[tuple[WorkerProcess, dict[int, str]]]:
    """Let a process publish all the time; what it acknowledges comes into the dictionary, whole when the block ends."""
    worker = WorkerProcess(path, "flood", tasks=20)
    acknowledged: dict[int, str] = {}

    def read() -> None:
        while (told := worker.line()) is not None:
            if told != "ready" and told[0]:
                acknowledged[told[0]] = told[1]

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        until(lambda: len(acknowledged) > 200, 20, what="messages are acknowledged")
        yield worker, acknowledged
    finally:
        try:
            worker.process.send_signal(signal.SIGINT)
            worker.process.wait(10)
            reading.join(10)
        finally:
            worker.end()


def assert_kept(path: Path, acknowledged: dict[int, str]) -> None:
    """Open a database, and look for all that was acknowledged."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = dict(database.execute('SELECT "offset", data FROM tidewire_publications'))
    missing = [offset for offset, text in acknowledged.items() if kept.get(offset, b"").decode() != text]
    assert not missing, f"{missing[:5]} of {len(acknowledged)} were acknowledged"
