"""What the SQLite broker does beyond the contract: limits, timeouts, trimming, clocks, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from tidewire.backends.shared import waiting
from tidewire.backends.sqlite import SqliteBroker, SqlitePresence
from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.store_clock import StoreClock
from tidewire.errors import ConfigurationError, NotPublished, PublishUnconfirmed, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Member, Position, PublishRequest
from tidewire.retention import Retention
from tidewire.support import admission
from tidewire.testing import wait_until
from tidewire.testing.contract_store import Node

from .helpers import ManualClock, open_node

ALL = Retention(1_000_000, 1e9)
DAY = 86_400.0


def _stored(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        found = connection.execute('SELECT "offset" FROM tidewire_publications ORDER BY id').fetchall()
    connection.close()
    return [offset for (offset,) in found]


async def _trim_round(node: Node, path: Path, clock: ManualClock) -> None:
    """Wait until trimming has gone through all channels: one made last, and emptied on request, is empty.

    Takes some 6 s of the clock.
    """
    await node.publish("last of all")
    await node.broker.remove_history("last of all")
    count = len(_stored(path))
    clock.pass_time(6)
    await _wait_on_clock(clock, lambda: len(_stored(path)) < count)


async def _wait_on_clock(clock: ManualClock, condition: Callable[[], bool]) -> None:
    """Wait while the clock goes on a little, so that a rest between two rounds ends."""

    def holds() -> bool:
        clock.pass_time(0.02)
        return condition()

    await wait_until(holds, 10)


class Stall:
    """Holds commits until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.is_reached = threading.Event()
        commit = Database.commit

        def stalled(store: Database) -> None:
            if store.connection.total_changes:
                self.is_reached.set()
                assert self.is_open.wait(10)
            commit(store)

        monkeypatch.setattr(Database, "commit", stalled)


def test_newcomers_wait_while_the_writer_has_a_publish_and_go_on_when_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer takes the interpreter dozens of times for a commit; a loop full of newcomers hardly lets go of it."""
    for name in ("_REST", "_DEPRIVED"):
        monkeypatch.setattr(admission, name, 3_600.0)
    seen: list[object] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        gate = admission.Admission.of(loop)
        async with open_node(tmp_path / "chat.db") as node:
            stall = Stall(monkeypatch)
            publish = asyncio.create_task(node.publish("a", b"one"))
            publish.add_done_callback(lambda _: seen.append("answered"))
            await wait_until(stall.is_reached.is_set)
            for number in range(3):
                gate.start(lambda number=number: seen.append(number), 1)  # type: ignore[misc]
            for _ in range(100):
                await asyncio.sleep(0)
            assert seen == [0]
            stall.is_open.set()
            await wait_until(lambda: len(seen) == 4)
            assert sorted(map(str, seen)) == ["0", "1", "2", "answered"]
        assert not gate._first

    asyncio.run(run())


def test_a_commit_that_hangs_is_unconfirmed_and_what_waits_behind_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with open_node(tmp_path / "chat.db", publish_seconds=0.3) as node:
            await node.broker.subscribe("a")
            stall = Stall(monkeypatch)
            inside = asyncio.create_task(node.publish("a", b"inside", key="k"))
            await wait_until(stall.is_reached.is_set)
            behind = asyncio.create_task(node.publish("a", b"behind"))
            with pytest.raises(PublishUnconfirmed, match="publish it again with the same key"):
                await inside
            with pytest.raises(NotPublished, match=r"not published within 0\.3 s"):
                await behind
            assert (await node.broker.history("a")).top.offset == 0
            stall.is_open.set()
            assert await node.publish("a", b"inside", key="k") == 1
            assert await node.publish("a", b"later") == 2
            await wait_until(lambda: [p.data for p in node.delivered] == [b"inside", b"later"])

    asyncio.run(run())


def test_a_commit_whose_outcome_is_unknown_is_unconfirmed_and_delivered_if_it_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Database.commit
    failures = [True]

    def failing(store: Database) -> None:
        commit(store)
        if store.connection.total_changes and failures:
            failures.clear()
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

    async def run() -> None:
        async with open_node(tmp_path / "chat.db") as node:
            await node.broker.subscribe("a")
            monkeypatch.setattr(Database, "commit", failing)
            with pytest.raises(PublishUnconfirmed, match="see the system's log"):
                await node.publish("a", b"kept", key="k")

            async def is_back() -> bool:
                try:
                    return await node.publish("a", b"kept", key="k") == 1
                except NotPublished:
                    return False

            await wait_until(is_back)
            assert await node.publish("a", b"next") == 2
            await wait_until(lambda: [p.data for p in node.delivered] == [b"kept", b"next"])

    asyncio.run(run())


def test_too_much_that_waits_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITING_COUNT", 10)

    async def run() -> None:
        async with open_node(tmp_path / "chat.db") as node:
            results = await asyncio.gather(*(node.publish("a") for _ in range(15)), return_exceptions=True)
            refused = [result for result in results if isinstance(result, NotPublished)]
            assert len(refused) == 5
            assert "the limit is 10" in str(refused[0])
            assert await node.publish("a") == 11
            monkeypatch.setattr(waiting, "WAITING_BYTES", 600)
            sizes = await asyncio.gather(*(node.publish("a", b"x" * 60) for _ in range(3)), return_exceptions=True)
            assert [isinstance(result, NotPublished) for result in sizes] == [False, False, True]

    asyncio.run(run())


def test_trimming_removes_what_nobody_is_shown_but_nothing_younger_than_a_minute(tmp_path: Path) -> None:
    path, clock = tmp_path / "chat.db", ManualClock()
    few = Retention(3, DAY)

    async def run() -> None:
        async with open_node(path, clock=clock) as node:
            for _ in range(10):
                await node.publish("a", retention=few)
            for _ in range(5):
                await node.publish("aged", retention=Retention(100, 90.0))
            clock.pass_time(43)
            await node.publish("a", retention=few)
            await _trim_round(node, path, clock)
            assert len(_stored(path)) == 16
            clock.pass_time(15)
            await _wait_on_clock(clock, lambda: len(_stored(path)) == 5 + 3)
            clock.pass_time(30)
            await _wait_on_clock(clock, lambda: _stored(path) == [9, 10, 11])
            page = await node.broker.history("a")
            assert [publication.offset for publication in page.publications] == [9, 10, 11]
            assert not (await node.broker.history("a", since=Position(7, page.top.epoch))).complete
            assert (await node.broker.history("a", since=Position(8, page.top.epoch))).complete
            assert (await node.broker.history("aged")).top.offset == 5
            assert await node.publish("aged") == 6

    asyncio.run(run())


def test_who_knows_no_retention_leaves_what_another_process_gave(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    def kept() -> tuple[int, float]:
        with sqlite3.connect(path) as connection:
            row: tuple[int, float] = connection.execute("SELECT keep_size, keep_age FROM tidewire_channels").fetchone()
        connection.close()
        return row

    async def run() -> None:
        async with open_node(path) as application, open_node(path) as script:
            await script.publish("a")
            assert kept() == (Retention().size, Retention().age)
            await application.publish("a", retention=Retention(7, 70.0))
            await script.publish("a")
            assert kept() == (7, 70.0)
            assert [len(application.delivered), (await script.broker.history("a")).top.offset] == [0, 3]

    asyncio.run(run())


def test_removed_history_and_expired_keys_leave_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "chat.db", ManualClock()

    def count_keys() -> int:
        with sqlite3.connect(path) as connection:
            count: int = connection.execute("SELECT count(*) FROM tidewire_keys").fetchone()[0]
        connection.close()
        return count

    async def run() -> None:
        async with open_node(path, clock=clock) as node:
            for n in range(600):
                if n % 100 == 0:
                    await asyncio.gather(*(node.publish("a", key=f"{n + m}", retention=ALL) for m in range(100)))
            await node.broker.remove_history("a")
            clock.pass_time(10)
            await _wait_on_clock(clock, lambda: _stored(path) == [])
            assert count_keys() == 600
            clock.pass_time(301)
            await _wait_on_clock(clock, lambda: count_keys() == 0)

    asyncio.run(run())


def test_trimming_keeps_up_when_the_writer_is_never_idle(tmp_path: Path) -> None:
    path, clock = tmp_path / "chat.db", ManualClock()
    few = Retention(10, DAY)

    async def run() -> None:
        async with open_node(path, clock=clock) as node:
            await asyncio.gather(*(node.publish("a", retention=few) for _ in range(3_000)))
            clock.pass_time(100)

            async def publish() -> None:
                for _ in range(200):
                    await node.publish("b", retention=few)

            await asyncio.gather(*(publish() for _ in range(20)))
            with sqlite3.connect(path) as connection:
                left = connection.execute(
                    "SELECT count(*) FROM tidewire_publications WHERE kept < ?", (clock.wall_seconds - 50,)
                )
                assert left.fetchone()[0] <= 1_000
            connection.close()

    asyncio.run(run())


@pytest.mark.parametrize("jump", [2 * DAY, 3_650 * DAY, -2 * DAY])
def test_a_jump_of_the_wall_clock_neither_hides_nor_removes(tmp_path: Path, jump: float) -> None:
    path, clock = tmp_path / "chat.db", ManualClock()

    async def run() -> None:
        async with open_node(path, clock=clock) as node:
            for _ in range(5):
                await node.publish("a", key="k" if _ == 0 else "")
            clock.pass_time(120)
            clock.wall_seconds += jump
            await node.publish("a")
            await _trim_round(node, path, clock)
            assert await node.publish("a", key="k") == 1
        async with open_node(path, clock=clock) as node:
            page = await node.broker.history("a", retention=Retention(100, DAY))
            assert [publication.offset for publication in page.publications] == [1, 2, 3, 4, 5, 6]
            assert page.publications[-1].time == pytest.approx(page.publications[0].time + 120 + jump)

    asyncio.run(run())


def test_time_goes_on_over_a_restart_of_the_machine(tmp_path: Path) -> None:
    path, clock = tmp_path / "chat.db", ManualClock()

    async def shown() -> int:
        async with open_node(path, clock=clock) as node:
            return len((await node.broker.history("a", retention=Retention(100, DAY))).publications)

    async def run() -> None:
        async with open_node(path, clock=clock) as node:
            await node.publish("a")
        clock.boot_id, clock.monotonic_seconds = "boot-2", 5.0
        clock.wall_seconds += DAY / 2
        assert await shown() == 1
        clock.boot_id, clock.monotonic_seconds = "boot-3", 7.0
        clock.wall_seconds -= 10 * DAY
        assert await shown() == 1
        clock.boot_id = "boot-4"
        clock.wall_seconds += DAY
        assert await shown() == 0

    asyncio.run(run())


def test_every_commit_is_fsynced(tmp_path: Path) -> None:
    store = Database(tmp_path / "chat.db", StoreClock(ManualClock()))
    assert store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL (sqlite.org/pragma.html)"
    store.close()


def test_no_connection_is_used_on_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[str] = set()
    connect = sqlite3.connect

    class Noted(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            used.add(threading.current_thread().name)
            return super().execute(*arguments)

        def close(self) -> None:
            used.add(threading.current_thread().name)
            super().close()

    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, factory=Noted, **named))

    async def run() -> None:
        presence = SqlitePresence(tmp_path / "chat.db")
        await presence.start("one")
        async with open_node(tmp_path / "chat.db") as node:
            await node.broker.subscribe("a")
            await node.publish("a")
            await node.broker.history("a")
            await node.broker.positions(["a"])
            await node.broker.remove_history("a")
            await presence.join("a", Member("1", "ann"))
        await presence.aclose()

    asyncio.run(run())
    assert "tidewire-sqlite-writer" in used
    assert threading.current_thread().name not in used


def test_publishes_go_on_while_many_subscribe(tmp_path: Path) -> None:
    async def run() -> None:
        async with open_node(tmp_path / "chat.db", publish_seconds=1.0) as node:
            done = asyncio.Event()

            async def subscribe(task: int) -> None:
                n = 0
                while not done.is_set():
                    await node.broker.subscribe(f"{task}/{n}")
                    n += 1

            subscribing = [asyncio.create_task(subscribe(task)) for task in range(20)]
            for n in range(1, 20):
                assert await node.publish("a") == n
            done.set()
            await asyncio.gather(*subscribing)

    asyncio.run(run())


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def use() -> None:
        presence = SqlitePresence(path)
        await presence.start("one")
        async with open_node(path) as node:
            await node.broker.subscribe("a")
            await asyncio.gather(*(node.publish("a") for _ in range(100)))
            await asyncio.gather(*(node.broker.history("a") for _ in range(10)))
            await presence.join("a", Member("1", "ann"))
        await presence.aclose()
        assert len(asyncio.all_tasks()) == 1

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(use())
    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        asyncio.run(use())
    assert (descriptors(), threading.active_count()) == (before, threads)
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["chat.db", "chat.db-nodes", "chat.db-presence"]
    kinds = {entry.suffix for entry in (tmp_path / "chat.db-nodes").iterdir()}
    assert kinds == {".lock", ""}, "no socket and no node is left"


@pytest.mark.parametrize("has_answer", [False, True], ids=["publishing", "published"])
def test_a_loop_that_ends_without_a_close_leaves_no_thread(tmp_path: Path, has_answer: bool) -> None:
    async def forget() -> None:
        broker = SqliteBroker(tmp_path / "chat.db", Limits())
        await broker.start(lambda _: None)
        await broker.subscribe("a")
        publishing = asyncio.ensure_future(broker.publish(PublishRequest("a", b"")))
        await asyncio.sleep(0)
        assert not publishing.done()
        if has_answer:  # the thread has nothing more to say then
            await publishing

    asyncio.run(forget())

    async def is_gone() -> None:
        await wait_until(lambda: not any(thread.name == "tidewire-sqlite-writer" for thread in threading.enumerate()))

    asyncio.run(is_gone())


def test_a_loop_that_ends_behind_with_its_deliveries_leaves_no_thread(tmp_path: Path) -> None:
    count, data = 60, bytes(1_000_000)  # more than may wait for a loop

    async def forget() -> None:
        broker = SqliteBroker(tmp_path / "chat.db", Limits())
        await broker.start(lambda _: None)
        await broker.subscribe("a")
        publishing = [broker.publish(PublishRequest("a", data)) for _ in range(count)]
        await asyncio.sleep(0)
        assert not any(future.done() for future in publishing)

    async def is_gone() -> None:
        await wait_until(
            lambda: not any(thread.name == "tidewire-sqlite-writer" for thread in threading.enumerate()), 30
        )

    asyncio.run(forget())
    asyncio.run(is_gone())


@contextmanager
def room_for(files: int) -> Iterator[None]:
    """Let this process open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 1
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most + files, hard))
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        while taken and files:
            os.close(taken.pop())
            files -= 1
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_a_start_without_room_for_its_files_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    def left() -> tuple[int, list[str]]:
        gc.collect()
        threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("tidewire")]
        return len(os.listdir("/proc/self/fd")), threads

    async def start(files: int | None) -> bool:
        broker = SqliteBroker(path, Limits())
        try:
            with nullcontext() if files is None else room_for(files):
                await broker.start(lambda _: None)
        except (StoreUnavailable, ConfigurationError):
            return False
        await broker.aclose()
        return True

    async def scenario() -> None:
        assert await start(None)
        before, files = left(), 0
        while not await start(files):
            assert left() == before, files
            files += 1
        assert left() == before
        assert files > 8

    asyncio.run(scenario())


def test_a_long_path_and_a_name_with_signs_work(tmp_path: Path) -> None:
    folder = tmp_path / ("a very long name with % and # and ü " * 4)
    folder.mkdir()

    async def run() -> None:
        async with open_node(folder / "chät #1?.db") as reader, open_node(folder / "chät #1?.db") as writer:
            await reader.broker.subscribe("a")
            loop = asyncio.get_running_loop()
            taken = []
            for n in range(1, 12):
                start = loop.time()
                await writer.publish("a")
                await wait_until(lambda n=n: reader.offsets("a")[-1:] == [n])  # type: ignore[misc]
                taken.append(loop.time() - start)
            assert sorted(taken)[4] < 0.25, "only the slow poll brought them"

    asyncio.run(run())


def test_a_closed_broker_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        broker = SqliteBroker(tmp_path / "chat.db", Limits())
        for call in (broker.subscribe("a"), broker.history("a"), broker.positions(["a"])):
            with pytest.raises(StoreUnavailable, match="between its start and its close"):
                await call
        await broker.unsubscribe("a")
        await broker.aclose()

    asyncio.run(run())


def test_a_delivery_that_fails_keeps_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def deliver(publications: object) -> None:
        raise ValueError("a bug above")

    async def run() -> None:
        broker = SqliteBroker(tmp_path / "chat.db", Limits())
        await broker.start(deliver)
        await broker.subscribe("a")
        assert (await broker.publish(PublishRequest("a", b""))).offset == 1
        assert (await broker.publish(PublishRequest("a", b""))).offset == 2
        await broker.aclose()

    asyncio.run(run())
    assert "a bug above" in caplog.text
