"""What is told of a run is bounded, and what was told can be found again, also while nothing can be kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.support import events, opened, until
from tidewire import StoreUnavailable
from tidewire.pipelines import Job, Pipeline, RunStatus, Step
from tidewire.pipelines.reporter import current_view


async def talkative(job: Job) -> None:
    for number in range(20_000):
        job.progress_nowait(0.001, f"item {number}")
        if number % 500 == 0:
            await asyncio.sleep(0)


def test_a_function_that_says_much_is_told_ten_times_a_second(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, Pipeline("one", (Step("one", function=talkative),))) as pipelines:
            loop = asyncio.get_running_loop()
            began = loop.time()
            run = await pipelines.wait((await pipelines.start("one", "S1")).run.id)
            assert run.status is RunStatus.FINISHED
            assert run.steps[0].message == "item 19999"
            told = await events(pipelines, run.id)
            assert run.seq == told[-1]["seq"] <= 8 + 10 * (loop.time() - began)
            assert [event["status"] for event in told if event["type"] == "step"][:1] == ["running"]

    asyncio.run(scenario())


def test_who_comes_late_finds_everything_while_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_away = asyncio.Event()
    done = asyncio.Event()

    async def busy(job: Job) -> None:
        await done.wait()

    async def scenario() -> None:
        async with opened(tmp_path, Pipeline("one", (Step("one", function=busy), Step("two", ("true",))))) as pipelines:
            run = (await pipelines.start("one", "S1")).run.id
            reporter = pipelines._keeper._owned[run].reporter
            await until(lambda: reporter.run.status is RunStatus.RUNNING, what="it runs")
            await asyncio.wait_for(reporter.wait_settled(), 10)
            save = pipelines._store.save

            async def refusing(*arguments: Any, **options: Any) -> None:
                if is_away.is_set():
                    raise StoreUnavailable("the disk is full")
                await save(*arguments, **options)

            monkeypatch.setattr(pipelines._store, "save", refusing)
            monkeypatch.setattr("tidewire.pipelines.reporter._AGAIN", 0.001)
            is_away.set()
            reporter.note_step(msgspec.structs.replace(reporter.run.steps[0], progress=7, message="told early"))
            for position in range(150):  # an event that is never taken together with another
                reporter.note_run(RunStatus.RUNNING, position=position)
                await asyncio.sleep(0.005)
            kept = (await pipelines.record(run)).view
            assert (await current_view(pipelines.hub, kept)).run == reporter._view.run
            is_away.clear()
            done.set()
            async with asyncio.timeout(20):
                assert (await pipelines.wait(run)).status is RunStatus.FINISHED
            told = await events(pipelines, run)
            assert told[-1]["seq"] > 150

    asyncio.run(scenario())
