"""One user has a share of the queue, of the places and of the uploads, so that others always get theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.support import opened, program
from tidewire.pipelines import NotNow, Pipeline, Pipelines, QueueFull, RunStatus, Step
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.uploads import Uploads
from tidewire.support.counters import LimitCounter

ENDLESS = Pipeline("endless", (Step("wait", program("import time; time.sleep(600)"), grace=0.5),))
QUICK = Pipeline("quick", (Step("end", ("true",)),))


async def is_running(pipelines: Pipelines, run: str) -> None:
    async with asyncio.timeout(20):
        while (await pipelines.run(run)).status is not RunStatus.RUNNING:
            await asyncio.sleep(0.02)


def test_endless_runs_of_one_user_leave_a_place_for_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, ENDLESS, QUICK, user_queue=14) as pipelines:
            runs = [(await pipelines.start("endless", f"S{n}", user="greedy")).run.id for n in range(14)]
            await is_running(pipelines, runs[0])
            for user in ("ann", "bob"):
                started = await pipelines.start("quick", "S1", user=user)
                async with asyncio.timeout(20):
                    assert (await pipelines.wait(started.run.id)).status is RunStatus.FINISHED
            statuses = [(await pipelines.run(run)).status for run in runs]
            assert statuses.count(RunStatus.RUNNING) == 1

    asyncio.run(scenario())


def test_one_user_cannot_fill_the_queue(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, ENDLESS, concurrency=1, queue=5, user_queue=3) as pipelines:
            first = (await pipelines.start("endless", "S0", user="greedy")).run.id
            await is_running(pipelines, first)
            for number in range(3):
                await pipelines.start("endless", f"S{number + 1}", user="greedy")
            with pytest.raises(QueueFull, match="3 runs of yours wait already"):
                await pipelines.start("endless", "S9", user="greedy")
            assert LimitCounter.of(asyncio.get_running_loop()).reached["pipeline_user_queue"] == 1
            await pipelines.start("endless", "S1", user="ann")
            await pipelines.start("endless", "S1")  # the application itself has no share
            with pytest.raises(QueueFull, match="5 runs wait already"):
                await pipelines.start("endless", "S2", user="ann")

    asyncio.run(scenario())


def test_old_runs_of_one_user_do_not_push_out_those_of_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, QUICK, keep=4) as pipelines:
            kept = (await pipelines.start("quick", "S1", user="ann")).run.id
            await pipelines.wait(kept)
            for number in range(6):
                await pipelines.wait((await pipelines.start("quick", f"S{number}", user="greedy")).run.id)
            await pipelines._keeper._sweep()
            users = [run.user for run in await pipelines.runs()]
            assert (users.count("greedy"), users.count("ann")) == (3, 1)

    asyncio.run(scenario())


def test_one_user_cannot_take_all_uploads(tmp_path: Path) -> None:
    counted: list[str] = []
    uploads = Uploads(tmp_path, PipelineLimits(uploads=5, user_uploads=2), count=counted.append)

    async def body() -> AsyncIterator[bytes]:
        yield b"reads"

    async def send(user: str, times: int) -> None:
        for _ in range(times):
            await uploads.save("a.fastq", body(), user=user)

    async def scenario() -> None:
        await send("greedy", 2)
        with pytest.raises(NotNow, match="limit user_uploads"):
            await send("greedy", 1)
        await send("ann", 2)
        await send("", 1)
        with pytest.raises(NotNow, match="limit uploads"):
            await send("bob", 1)
        results = await asyncio.gather(*(send("zoe", 1) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, NotNow) for result in results)

    asyncio.run(scenario())
    assert counted == ["user_uploads", "uploads", "uploads", "uploads", "uploads"]
