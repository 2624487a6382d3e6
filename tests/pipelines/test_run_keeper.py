"""The moments in which two things happen to a run at once, and a store that does not answer."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.support import finished, opened, program, until
from tidewire import PublishUnconfirmed, StoreUnavailable
from tidewire.pipelines import NotNow, Pipeline, PipelineLimits, Pipelines, QueueFull, Run, RunStatus, Step
from tidewire.pipelines.runs import View

WAIT = program("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)")
WAITING = Pipeline("waiting", (Step("wait", WAIT, grace=0.5),))


async def is_status(pipelines: Pipelines, run: str, status: RunStatus) -> None:
    async with asyncio.timeout(20):
        while (await pipelines.run(run)).status is not status:
            await asyncio.sleep(0.02)


def away(pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let the hub's store be away for events of runs until the event that is returned is set."""
    back, publish = asyncio.Event(), pipelines.hub.node.publish

    async def refusing(*arguments: Any, **options: Any) -> Any:
        if not back.is_set():
            raise PublishUnconfirmed("the store is away")
        return await publish(*arguments, **options)

    monkeypatch.setattr(pipelines.hub.node, "publish", refusing)
    return back


def test_cancelled_again_while_it_is_told_that_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING) as pipelines:
            run = (await pipelines.start("waiting", "S1")).run.id
            log = tmp_path / "runs" / "runs" / run / "logs" / "wait.log"
            await until(log.exists, what="it runs")
            back = away(pipelines, monkeypatch)
            await pipelines.cancel(run)
            await until(lambda: b"ended with" in log.read_bytes(), what="its program has ended")
            end = time.monotonic() + 2.5
            while time.monotonic() < end:  # longer than the pause between two looks
                pipelines._keeper.wake_all()
                await asyncio.sleep(0.05)
            back.set()
            async with asyncio.timeout(20):
                assert (await pipelines.wait(run)).status is RunStatus.CANCELLED
            assert (await pipelines.resume(run)).status.is_active

    asyncio.run(scenario())


def test_cancelled_when_it_has_just_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING) as pipelines:
            run = (await pipelines.start("waiting", "S1")).run.id
            await is_status(pipelines, run, RunStatus.RUNNING)
            save, saving = pipelines._store.save, asyncio.Event()

            async def slow(kept: Run, view: View, *, sync: bool) -> None:
                if kept.status is RunStatus.FINISHED:
                    await saving.wait()
                await save(kept, view, sync=sync)

            monkeypatch.setattr(pipelines._store, "save", slow)
            (tmp_path / "runs" / "runs" / run / "work" / "go").touch()
            owned = pipelines._keeper._owned[run]
            await until(lambda: owned.reporter.run.status is RunStatus.FINISHED, what="it has finished")
            await pipelines.cancel(run)
            await asyncio.sleep(0)
            pipelines._keeper.wake()
            await pipelines._keeper.wait_changed(5)
            await pipelines._keeper.wait_changed(5)
            saving.set()
            async with asyncio.timeout(20):
                assert (await pipelines.wait(run)).status is RunStatus.FINISHED

    asyncio.run(scenario())


def test_resumed_at_the_moment_in_which_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Step("flaky", program("import os, sys; sys.exit(not os.path.exists('go'))"))

    async def scenario() -> None:
        async with opened(tmp_path, Pipeline("flaky", (flaky,))) as pipelines:
            release, resumed = pipelines._store.release, asyncio.Event()

            async def released(*arguments: Any) -> None:
                await release(*arguments)
                if not resumed.is_set():
                    (tmp_path / "runs" / "runs" / arguments[0] / "work" / "go").touch()
                    await pipelines.resume(arguments[0])
                    resumed.set()

            monkeypatch.setattr(pipelines._store, "release", released)
            run = (await pipelines.start("flaky", "S1")).run.id
            await asyncio.wait_for(resumed.wait(), 20)
            async with asyncio.timeout(20):
                assert (await pipelines.wait(run)).status is RunStatus.FINISHED
            page = await pipelines.hub.history(f"$pipeline:{run}")
            numbers = [msgspec.json.decode(publication.data)["seq"] for publication in page.publications]
            assert numbers == list(range(1, len(numbers) + 1))

    asyncio.run(scenario())


@pytest.mark.parametrize("when", ["record", "begin"])
def test_a_store_that_does_not_answer_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, Pipeline("one", (Step("one", ("true",)),))) as pipelines:
            original: Callable[..., Any] = getattr(pipelines._store, when)
            failed = asyncio.Event()

            async def once(*arguments: Any) -> Any:
                answer = await original(*arguments)
                if not failed.is_set():
                    failed.set()
                    raise StoreUnavailable("it has done so, but its answer is lost")
                return answer

            monkeypatch.setattr(pipelines._store, when, once)
            run = (await pipelines.start("one", "S1")).run.id
            await asyncio.wait_for(failed.wait(), 20)
            async with asyncio.timeout(20):
                assert (await pipelines.wait(run)).status is RunStatus.FINISHED

    asyncio.run(scenario())


@pytest.mark.parametrize("broken", ["definition = '{}'", 'definition = \'{"name": "BAD", "steps": []}\''])
def test_a_definition_of_another_version_fails_its_run_alone(tmp_path: Path, broken: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING, concurrency=1) as pipelines:
            run = (await pipelines.start("waiting", "S1")).run.id
            await is_status(pipelines, run, RunStatus.RUNNING)
            queued = (await pipelines.start("waiting", "S2")).run.id
            with sqlite3.connect(tmp_path / "runs" / "runs.db") as database:
                database.execute(f"UPDATE runs SET {broken} WHERE id = ?", (queued,))
            (tmp_path / "runs" / "runs" / run / "work" / "go").touch()
            async with asyncio.timeout(20):
                found = await pipelines.wait(queued)
            assert found.status is RunStatus.FAILED
            assert "its definition cannot be used any more" in found.error
            assert (await finished(pipelines, Step("one", ("true",)), sample="S3")).status is RunStatus.FINISHED

    asyncio.run(scenario())


def test_a_run_that_cannot_be_read_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING) as pipelines:
            run = (await pipelines.start("waiting", "S1")).run.id
            await is_status(pipelines, run, RunStatus.RUNNING)
        with sqlite3.connect(tmp_path / "runs" / "runs.db") as database:
            database.execute("UPDATE runs SET owner = 'dead', status = 'running', state = '{}' WHERE id = ?", (run,))
        with caplog.at_level(logging.ERROR):
            async with opened(tmp_path) as pipelines:
                assert (await finished(pipelines, Step("one", ("true",)), sample="S2")).status is RunStatus.FINISHED
        assert [record.message for record in caplog.records if run in record.message] == [
            f"run {run} stays as it is until the server is restarted"
        ]

    asyncio.run(scenario())


def test_a_stale_look_takes_no_run_of_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING) as pipelines:
            run = (await pipelines.start("waiting", "S1")).run.id
            stale = (await pipelines._store.attend(pipelines._keeper.name, PipelineLimits(concurrency=1)))[0]
            await is_status(pipelines, run, RunStatus.RUNNING)
            await pipelines.cancel(run)
            await pipelines.wait(run)
            await until(lambda: run not in pipelines._keeper._owned, what="it is let go")
            await pipelines._store.resume(await pipelines.run(run), "another", PipelineLimits())
            await pipelines._keeper._attend(stale)
            assert run not in pipelines._keeper._owned
            await pipelines._store.release(run, pipelines._keeper.name)
            record = await pipelines._store.record(run)
            assert record is not None
            assert record.owner == "another"

    asyncio.run(scenario())


def test_progress_of_an_ended_run_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", ("true",)))
            await pipelines._store.add_progress(run.id, "one", 0.5, "too late")
            with sqlite3.connect(tmp_path / "runs" / "runs.db") as database:
                assert database.execute("SELECT count(*) FROM progress_reports").fetchone() == (0,)

    asyncio.run(scenario())


def test_closing_with_a_long_queue_and_no_store_does_not_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING, concurrency=1) as pipelines:
            runs = [(await pipelines.start("waiting", f"S{number}")).run.id for number in range(10)]
            await is_status(pipelines, runs[0], RunStatus.RUNNING)
            away(pipelines, monkeypatch)
            await pipelines.cancel(runs[1])
            owned = pipelines._keeper._owned
            await until(
                lambda: not any(owned[run].reporter._settled.is_set() for run in runs[2:]),
                what="all places in the queue have changed, and wait to be told",
            )
            began = time.monotonic()
        assert time.monotonic() - began < 10

    asyncio.run(scenario())


def test_resuming_waits_for_room_in_the_queue(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING, concurrency=1, queue=1) as pipelines:
            first = (await pipelines.start("waiting", "S1")).run.id
            await is_status(pipelines, first, RunStatus.RUNNING)
            await pipelines.cancel(first)
            await pipelines.wait(first)
            second = (await pipelines.start("waiting", "S2")).run.id
            await is_status(pipelines, second, RunStatus.RUNNING)
            await pipelines.start("waiting", "S3")
            with pytest.raises(QueueFull, match="1 runs wait already"):
                await pipelines.resume(first)
            assert (await pipelines.run(first)).status is RunStatus.CANCELLED
            with pytest.raises(NotNow):
                await pipelines.resume(second)

    asyncio.run(scenario())


def test_who_dies_without_runs_leaves_no_file(tmp_path: Path) -> None:
    dead = tmp_path / "runs" / "owners" / "1-dead.lock"
    dead.parent.mkdir(parents=True)
    dead.touch()

    async def scenario() -> None:
        async with opened(tmp_path) as first, opened(tmp_path) as second:
            assert {path.stem for path in dead.parent.glob("*.lock")} == {first._keeper.name, second._keeper.name}
            assert not second._keeper._owners.is_dead(first._keeper.name)
        assert not list(dead.parent.glob("*.lock"))

    asyncio.run(scenario())


def test_resumed_and_removed_as_soon_as_it_is_seen_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, Pipeline("bad", (Step("bad", ("false",)),))) as pipelines:
            release = pipelines._store.release

            async def late(*arguments: Any) -> None:
                await asyncio.sleep(0.5)
                await release(*arguments)

            monkeypatch.setattr(pipelines._store, "release", late)
            run = (await pipelines.start("bad", "S1")).run.id
            await is_status(pipelines, run, RunStatus.FAILED)
            assert (await pipelines.resume(run)).status.is_active
            await is_status(pipelines, run, RunStatus.FAILED)
            await pipelines.remove(run)

    asyncio.run(scenario())
