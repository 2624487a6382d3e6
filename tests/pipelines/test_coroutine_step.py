"""A function of this process as a step: its log is a bounded file, and nothing of it stays open."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.support import run
from tidewire.pipelines import Job
from tidewire.pipelines.coroutine_step import run_function
from tidewire.pipelines.job import JobFacts
from tidewire.pipelines.output import BoundedLog
from tidewire.pipelines.process import Ended, Listener

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


async def run_one(folder: Path, function: Callable[[Job], Awaitable[object]]) -> Ended:
    async def started(_: list[str]) -> None:
        pass

    place = str(folder)
    facts = JobFacts("r1", "step", "S1", 1, 1, place, place, place, {})
    listener = Listener(started, lambda fraction, message: None, lambda start, end, text: None)
    return await run_function(
        function, facts, listener, log=folder / "step.log", log_bytes=1_000_000, log_rate=1e9, timeout=None
    )


def full(log: BoundedLog, data: bytes, now: float) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def talk(job: Job) -> None:
    job.log("one")
    await asyncio.sleep(30)


async def say_one(job: Job) -> None:
    job.log("one")


@linux
@pytest.mark.parametrize("function", [talk, say_one])
def test_a_full_disk_ends_a_function_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[[Job], Awaitable[object]]
) -> None:
    async def scenario() -> None:
        await asyncio.to_thread(lambda: None)
        before = descriptors()
        began = time.monotonic()
        ended = await run_one(tmp_path, function)
        assert time.monotonic() - began < 5
        assert (ended.exit, ended.reason) == (1, "disk")
        assert "free some space" in ended.error
        assert descriptors() == before

    monkeypatch.setattr(BoundedLog, "write", full)
    run(scenario())


def test_a_log_is_written_by_one_thread_at_a_time_and_closed_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is slow, too, and where the function ends while something is being written."""
    writing: list[str] = []
    write, close = BoundedLog.write, BoundedLog.close

    def slow_write(log: BoundedLog, data: bytes, now: float) -> None:
        writing.append("begin")
        time.sleep(0.3)
        write(log, data, now)
        writing.append("end")

    def noted_close(log: BoundedLog) -> None:
        writing.append("close")
        close(log)

    async def function(job: Job) -> None:
        job.log("one")
        await asyncio.sleep(0.2)
        job.log("two")

    monkeypatch.setattr(BoundedLog, "write", slow_write)
    monkeypatch.setattr(BoundedLog, "close", noted_close)

    async def scenario() -> None:
        assert await run_one(tmp_path, function) == Ended(0, lines=("one", "two"))

    run(scenario())
    assert writing == ["begin", "end", "begin", "end", "close"]
    assert (tmp_path / "step.log").read_text() == "[tidewire] attempt 1\none\ntwo\n"
