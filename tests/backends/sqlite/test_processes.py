"""Several real processes on one file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from helpers.counting import reached
from helpers.processes import worker
from tidewire.backends.sqlite import mailbox
from tidewire.backends.sqlite.database import PAGE
from tidewire.errors import NotPublished
from tidewire.testing import wait_until

from .helpers import WorkerProcess, in_thread, open_node


def test_processes_deliver_the_same_order_exactly_once(tmp_path: Path) -> None:
    path, tasks, each = tmp_path / "chat.db", 10, 100
    with contextlib.ExitStack() as stack:
        options = {"tasks": tasks, "each": each, "expected": 2 * tasks * each}
        children = [stack.enter_context(worker(f"sqlite:///{path}", "exchange", **options)) for _ in range(2)]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        told = [child.communicate(timeout=30)[0] for child in children]
    assert told[0] == told[1]
    with sqlite3.connect(path) as connection:
        stored = connection.execute('SELECT "offset", data FROM tidewire_publications ORDER BY id').fetchall()
    assert json.loads(told[0]) == [[offset, data.decode()] for offset, data in stored]
    assert [offset for offset, _ in stored] == list(range(1, 2 * tasks * each + 1))


def test_what_a_killed_process_acknowledged_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    worker = WorkerProcess(path, "flood", tasks=50)
    try:
        assert worker.line() == "ready"
        told = [worker.line() for _ in range(500)]
        os.kill(worker.pid, signal.SIGKILL)
        told += worker.lines()
    finally:
        worker.end()

    async def run() -> None:
        async with open_node(path) as node:
            page = await node.broker.history("a")
            kept = {publication.offset: publication.data.decode() for publication in page.publications}
            assert len(told) >= 500
            for offset, data in told:
                assert kept.get(offset) == data
            assert list(kept) == list(range(1, len(kept) + 1))
            assert await node.publish("a") == len(kept) + 1

    asyncio.run(run())


def test_the_next_process_removes_what_killed_ones_left_in_the_folder(tmp_path: Path) -> None:
    path, folder = tmp_path / "chat.db", tmp_path / "chat.db-nodes"

    def left() -> set[str]:
        return {place.suffix for place in folder.iterdir() if place.is_socket()}

    worker = WorkerProcess(path, "flood", tasks=1)
    try:
        assert worker.line() == "ready"
        os.kill(worker.pid, signal.SIGKILL)
        worker.lines()
    finally:
        worker.end()
    assert left() == {".sock", ".bus"}

    async def run() -> None:
        async with open_node(path), open_node(path) as node:
            await node.publish("a")
            await wait_until(lambda: sum(place.is_socket() for place in folder.iterdir()) == 4)
            await asyncio.sleep(0.05)
            assert not reached(), "a call is no payload that was not understood"

    asyncio.run(run())
    assert left() == set()


def test_a_process_that_holds_the_lock_and_does_not_go_on_fails_others_in_time(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        async with open_node(path, publish_seconds=0.5) as node:
            await node.broker.subscribe("a")
            assert await node.publish("a") == 1
            holder = WorkerProcess(path, "hold")
            try:
                assert await in_thread(holder.line) == "ready"
                os.kill(holder.pid, signal.SIGSTOP)
                start = time.monotonic()
                with pytest.raises(NotPublished, match=r"not published within 0\.5 s"):
                    await node.publish("a")
                assert time.monotonic() - start < 5
                assert (await node.broker.subscribe("b")).offset == 0
                assert (await node.broker.history("a")).top.offset == 1
            finally:
                holder.end()
            assert await node.publish("a") == 2
            await wait_until(lambda: node.offsets("a") == [1, 2])

    asyncio.run(run())


def test_a_frozen_publisher_blocks_others_only_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        async with open_node(path, publish_seconds=0.5) as node:
            for _ in range(3):
                flooding = WorkerProcess(path, "flood", tasks=20)
                try:
                    assert await in_thread(flooding.line) == "ready"
                    await in_thread(flooding.line)
                    os.kill(flooding.pid, signal.SIGSTOP)
                    start = time.monotonic()
                    await asyncio.gather(*(node.publish("a") for _ in range(5)), return_exceptions=True)
                    assert time.monotonic() - start < 5
                finally:
                    flooding.end()
                await node.publish("a")

    asyncio.run(run())


def test_a_message_reaches_an_idle_process_at_once(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"

    async def run() -> None:
        async with open_node(path) as reader, open_node(path) as writer:
            await reader.broker.subscribe("a")
            waits = []
            for n in range(1, 21):
                start = time.monotonic()
                await writer.publish("a")
                await wait_until(lambda n=n: reader.offsets("a")[-1:] == [n])  # type: ignore[misc]
                waits.append(time.monotonic() - start)
            assert sorted(waits)[10] < 0.25, "only the slow poll brought them"

    asyncio.run(run())


def test_a_node_whose_loop_was_blocked_gets_everything_in_order_and_little_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, size = tmp_path / "chat.db", 2_000
    monkeypatch.setattr(mailbox, "_UNDELIVERED", 100 * size)

    async def run() -> None:
        async with open_node(path) as node:
            assert (await node.broker.subscribe("a")).offset == 0
            flooding = WorkerProcess(path, "flood", tasks=100, size=size)
            try:
                assert await in_thread(flooding.line) == "ready"
                for _ in range(3_000):  # this process's loop takes nothing meanwhile
                    flooding.line()
                assert node.broker._mailbox._undelivered <= (100 + PAGE) * size  # type: ignore[attr-defined]
            finally:
                flooding.end()
            top = (await node.broker.history("a", limit=0)).top
            await wait_until(lambda: node.offsets("a")[-1:] == [top.offset])
            assert node.offsets("a") == list(range(1, top.offset + 1))

    asyncio.run(run())
