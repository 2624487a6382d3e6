"""Who is dead, and when: processes that die, freeze and wake, seen by others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tidewire.backends.sqlite import SqlitePresence
from tidewire.backends.sqlite.leases import NodeRow, Watch
from tidewire.backends.sqlite.presence_database import PresenceDatabase
from tidewire.errors import StoreUnavailable
from tidewire.messages import Departure, Member
from tidewire.testing import wait_until

from .helpers import WorkerProcess, in_thread

LEASES = {"lease": 1.0, "grace": 0.5}


async def _claim_all(presence: SqlitePresence, count: int, limit: float = 12.0) -> list[Departure]:
    found: list[Departure] = []

    async def are_claimed() -> bool:
        await presence.touch()
        claimed = await presence.claim()
        await presence.forget(claimed)
        found.extend(claimed)
        return len(found) == count

    await wait_until(are_claimed, limit, f"{count} departures")
    return found


async def _freeze_without_the_lock(worker: WorkerProcess, presence: SqlitePresence) -> None:
    """Stop a process at a moment in which others can go on: one that holds the lock has to be killed first."""
    while True:
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            await presence.touch()
        except StoreUnavailable:
            os.kill(worker.pid, signal.SIGCONT)
            await in_thread(worker.line)
        else:
            return


def _is_tidy(path: Path) -> bool:
    return not list(path.with_name(f"{path.name}-nodes").glob("*.node"))


def test_the_members_of_a_killed_process_depart_after_the_grace(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        presence = SqlitePresence(path)
        await presence.start("one")
        worker = WorkerProcess(path, "attend", members=3)
        try:
            assert await in_thread(worker.line) == "ready"
            assert await presence.count("a") == 3
        finally:
            worker.end()
        start = time.monotonic()
        assert await presence.claim() == ()
        assert len(await presence.members("a")) == 3
        departures = await _claim_all(presence, 3)
        assert 4.0 < time.monotonic() - start < 12.0
        assert sorted(departure.user for departure in departures) == ["user 0", "user 1", "user 2"]
        assert await presence.members("a") == []
        await presence.aclose()
        assert _is_tidy(path)

    asyncio.run(run())


def test_the_members_of_a_frozen_process_depart_and_it_learns_that_it_lost_its_lease(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        presence = SqlitePresence(path, **LEASES)
        await presence.start("one")
        worker = WorkerProcess(path, "attend", members=2, leases=LEASES)
        try:
            assert await in_thread(worker.line) == "ready"
            assert await in_thread(worker.line) is True
            await _freeze_without_the_lock(worker, presence)
            await _claim_all(presence, 2)
            os.kill(worker.pid, signal.SIGCONT)
            told = [await in_thread(worker.line) for _ in range(20)]
            assert told.count(False) == 1
            assert told[-1] is True
        finally:
            worker.end()
        await presence.aclose()

    asyncio.run(run())


def test_members_of_the_last_run_may_return_first(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    worker = WorkerProcess(path, "attend", members=2)
    assert worker.line() == "ready"
    worker.end()

    async def run() -> None:
        presence = SqlitePresence(path, **LEASES)
        await presence.start("one")
        assert len(await presence.members("a")) == 2
        back = Member("back", "user 1")
        assert not (await presence.join("a", back)).first
        departures = await _claim_all(presence, 1)
        assert [departure.user for departure in departures] == ["user 0"]
        assert await presence.members("a") == [back]
        await presence.aclose()

    asyncio.run(run())


def test_who_takes_the_place_of_a_dead_member_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        presence = SqlitePresence(path, lease=1.0, grace=30.0)
        await presence.start("one")
        worker = WorkerProcess(path, "attend", members=1)
        assert await in_thread(worker.line) == "ready"
        worker.end()
        await wait_until(lambda: bool(presence._watch.dead))
        result = await presence.join("a", Member("back", "user 0"))
        assert (result.first, result.connections) == (False, 1)
        assert await presence.count("a") == 1
        await presence.aclose()

    asyncio.run(run())


def test_ten_thousand_join_in_a_moment(tmp_path: Path) -> None:
    async def run() -> None:
        presence = SqlitePresence(tmp_path / "chat.db")
        await presence.start("one")
        start = time.process_time()  # that of the threads too, whatever else the machine does
        await asyncio.gather(*(presence.join("a", Member(str(n), f"user {n}")) for n in range(10_000)))
        assert time.process_time() - start < 5.0
        assert await presence.count("a") == 10_000
        await presence.aclose()

    asyncio.run(run())


def test_a_file_of_another_version_is_made_anew(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db-presence")) as connection:
        connection.execute("CREATE TABLE members (channel TEXT, connection TEXT, user TEXT, node INTEGER)")

    async def run() -> None:
        presence = SqlitePresence(tmp_path / "chat.db")
        await presence.start("one")
        assert (await presence.join("a", Member("1", "ann"))).first
        assert [member.user for member in await presence.members("a")] == ["ann"]
        await presence.aclose()

    asyncio.run(run())


def test_a_file_that_another_process_has_made_in_the_place_of_a_damaged_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes find the same damage; the members of those who were quicker are not lost again."""
    path = tmp_path / "store.db"
    connect = PresenceDatabase._connect

    def quicker(self: PresenceDatabase) -> None:
        monkeypatch.setattr(PresenceDatabase, "_connect", connect)
        try:
            connect(self)
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}-presence{suffix}").unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(f"{path}-presence")) as other:
                other.execute("PRAGMA user_version = 7")
            raise

    Path(f"{path}-presence").write_bytes(b"no database" * 1_000)
    monkeypatch.setattr(PresenceDatabase, "_connect", quicker)

    async def main() -> None:
        presence = SqlitePresence(path, **LEASES)
        await presence.start("n1")
        await presence.join("a", Member("c1", "ann"))
        assert await presence.members("a") == [Member("c1", "ann")]
        await presence.aclose()

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(f"{path}-presence")) as found:
        assert found.execute("PRAGMA user_version").fetchone() == (7,)


def test_the_log_that_another_process_has_begun_beside_its_new_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the newest members; a file system gives it the identity of the one that was removed just before."""
    path, connect, others = tmp_path / "store.db-presence", PresenceDatabase._connect, contextlib.ExitStack()

    def quicker(self: PresenceDatabase) -> None:
        monkeypatch.setattr(PresenceDatabase, "_connect", connect)
        for suffix in ("-spare", "-shm", "-wal", ""):
            Path(f"{path}{suffix}").unlink()
        other = others.enter_context(contextlib.closing(sqlite3.connect(path, check_same_thread=False)))
        other.executescript("PRAGMA journal_mode = WAL; CREATE TABLE newest (member TEXT)")
        error = sqlite3.DatabaseError("it was damaged")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error

    for suffix in ("-spare", "", "-wal", "-shm"):  # the new file takes the place of the spare one
        Path(f"{path}{suffix}").write_bytes(b"no database" * 1_000)
    monkeypatch.setattr(PresenceDatabase, "_connect", quicker)

    async def main() -> None:
        presence = SqlitePresence(tmp_path / "store.db", **LEASES)
        await presence.start("n1")
        await presence.join("a", Member("c1", "ann"))
        await presence.aclose()

    with others:
        asyncio.run(main())
        with contextlib.closing(sqlite3.connect(path)) as found:
            assert found.execute("SELECT count(*) FROM newest").fetchone() == (0,)
            assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_after_a_failed_transaction_members_join_again_and_nobody_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"

    def fail(roster: PresenceDatabase) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async def run() -> None:
        presence = SqlitePresence(path, lease=1.0, grace=0.1)
        await presence.start("one")
        worker = WorkerProcess(path, "attend", members=1)
        assert await in_thread(worker.line) == "ready"
        worker.end()
        await wait_until(lambda: bool(presence._watch.departed))
        with monkeypatch.context() as patch:
            patch.setattr(PresenceDatabase, "commit", fail)
            with pytest.raises(StoreUnavailable):
                await presence.join("a", Member("1", "ann"))
            assert (presence._watch.dead, presence._watch.departed) == ([], {})
        assert not await presence.touch()
        assert await presence.touch()
        await presence.aclose()

    asyncio.run(run())


ALIVE, FREE = True, False


def _watch() -> Watch:
    return Watch(lease=8.0, grace=6.0, longest_step=1.0)


def _look(watch: Watch, now: float, counter: int, is_locked: bool) -> None:
    watch.look(now, [(NodeRow(1, "token", counter, False), is_locked)], [])


def test_a_free_lock_is_noticed_at_once_and_claimable_after_the_grace() -> None:
    watch = _watch()
    _look(watch, 0.0, 1, ALIVE)
    _look(watch, 0.5, 1, FREE)
    assert (watch.dead, watch.departed) == ([1], {})
    for step in range(2, 20):
        _look(watch, step / 2, 1, FREE)
        assert bool(watch.departed) == (step / 2 >= 6.0)


def test_a_counter_that_stands_still_is_claimable_before_twelve_seconds() -> None:
    watch = _watch()
    for step in range(24):
        _look(watch, step / 2, 1, ALIVE)
        assert bool(watch.dead) == (step / 2 >= 8.0)
        assert bool(watch.departed) == (step / 2 >= 11.0)
    _look(watch, 12.0, 2, ALIVE)
    assert (watch.dead, watch.departed) == ([], {})


@pytest.mark.parametrize("is_locked", [ALIVE, FREE])
def test_an_observer_that_slept_finds_nobody_dead_when_it_wakes(is_locked: bool) -> None:
    watch = _watch()
    _look(watch, 0.0, 1, is_locked)
    _look(watch, 100_000.0, 1, is_locked)
    assert watch.departed == {}


def test_after_an_outage_the_watch_begins_anew() -> None:
    watch = _watch()
    for step in range(15):
        _look(watch, step / 2, 1, ALIVE)
    watch.reset()
    _look(watch, 8.0, 1, ALIVE)
    assert (watch.dead, watch.departed) == ([], {})


def test_a_claim_is_overdue_after_a_lease() -> None:
    watch = _watch()
    for step in range(20):
        watch.look(step / 2, [], [("token", 1)])
        assert bool(watch.overdue) == (step / 2 >= 8.0)
    watch.look(10.0, [], [("token", 2)])
    assert watch.overdue == {}
