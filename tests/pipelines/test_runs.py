"""Runs: their queue over all processes, who is joined, who is cancelled, and what is resumed where."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipelines.support import events, finished, opened, program, until
from tidewire import Hub
from tidewire.pipelines import (
    BadStart,
    Forbidden,
    Input,
    NotFound,
    NotNow,
    Pipeline,
    PipelineLimits,
    Pipelines,
    QueueFull,
    RunStatus,
    Step,
    StepStatus,
)

#: Runs until a file lies in its run's folder.
WAIT = program("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)")
WAITING = Pipeline("waiting", (Step("wait", WAIT, grace=0.5),))


def go(pipelines_folder: Path, run: str) -> None:
    (pipelines_folder / "runs" / "runs" / run / "work" / "go").touch()


async def is_status(pipelines: Pipelines, run: str, status: RunStatus, *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while (await pipelines.run(run)).status is not status:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def two(folder: Path, *definitions: Pipeline, **limits: int) -> AsyncIterator[tuple[Pipelines, Pipelines]]:
    """Open two hubs with pipelines on one store and one folder, as two workers do."""
    url = f"sqlite:///{folder}/hub.db"
    async with Hub(url) as one, Hub(url) as other:
        settings = PipelineLimits(**limits)
        async with (
            Pipelines(one, folder / "runs", definitions, limits=settings) as first,
            Pipelines(other, folder / "runs", definitions, limits=settings) as second,
        ):
            yield first, second


def test_the_queue_is_one_over_all_processes_and_tells_positions(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two(tmp_path, WAITING, concurrency=1, queue=2) as (first, second):
            runs = [
                (await pipelines.start("waiting", f"S{number}")).run
                for number, pipelines in enumerate((first, second, first))
            ]
            await is_status(second, runs[0].id, RunStatus.RUNNING)
            async with asyncio.timeout(20):  # they move up when the first has begun
                while [(await first.run(run.id)).position for run in runs] != [None, 1, 2]:
                    await asyncio.sleep(0.02)
            with pytest.raises(QueueFull, match="2 runs wait already"):
                await second.start("waiting", "S4")
            assert second.hub.statistics().limits_reached["pipeline_queue"] == 1
            for run in runs:
                await is_status(first, run.id, RunStatus.RUNNING)
                running = await second.runs(status=RunStatus.RUNNING)
                assert [found.id for found in running] == [run.id]
                go(tmp_path, run.id)
                assert (await second.wait(run.id)).status is RunStatus.FINISHED
            told = [event.get("position") for event in await events(first, runs[2].id) if event["status"] == "queued"]
            assert told[-1:] == [1]

    asyncio.run(scenario())


def test_the_same_again_joins(tmp_path: Path) -> None:
    reads, others = tmp_path / "a.fastq", tmp_path / "b.fastq"
    reads.write_text("@1")
    others.write_text("@2")
    definition = Pipeline("waiting", (Step("wait", WAIT, grace=0.5),), inputs=(Input("reads"),))

    async def scenario() -> None:
        async with two(tmp_path, definition, concurrency=9) as (first, second):
            run = (await first.start("waiting", "S1", inputs={"reads": reads})).run
            again = await second.start("waiting", "S1", inputs={"reads": reads})
            assert (again.joined, again.run.id) == (True, run.id)
            for pipelines, sample, path, options in (
                (second, "S2", reads, {}),
                (second, "S1", others, {}),
                (first, "S1", reads, {"new": True}),
                (first, "S1", reads, {"user": "ann"}),
            ):
                started = await pipelines.start("waiting", sample, inputs={"reads": path}, **options)  # type: ignore[arg-type]
                assert not started.joined
            assert len(await first.runs()) == 5
            assert [found.user for found in await first.runs(user="ann")] == ["ann"]
            go(tmp_path, run.id)
            await second.wait(run.id)
            assert not (await second.start("waiting", "S1", inputs={"reads": reads}, new=True)).joined

    asyncio.run(scenario())


@pytest.mark.parametrize("folder", ["reads", "unmapped"])
def test_a_file_that_has_changed_is_other_work(tmp_path: Path, folder: str) -> None:
    reads = tmp_path / folder / "a.fastq"
    reads.parent.mkdir()
    reads.write_text("@1")
    definition = Pipeline("waiting", (Step("wait", WAIT, grace=0.5),), inputs=(Input("reads"),))

    async def scenario() -> None:
        async with two(tmp_path, definition, concurrency=9) as (first, second):
            run = (await first.start("waiting", "S1", inputs={"reads": reads})).run
            reads.write_text("@2")
            os.utime(reads, (1e9, 1e9))
            again = await second.start("waiting", "S1", inputs={"reads": reads})
            assert not again.joined
            for one in (run, again.run):
                await first.cancel(one.id)
                await first.wait(one.id)

    asyncio.run(scenario())


def test_a_run_whose_folder_cannot_be_made_is_told_of_and_cancelled(tmp_path: Path) -> None:
    definition = Pipeline("waiting", (Step("wait", WAIT, grace=0.5),))

    async def scenario() -> None:
        async with two(tmp_path, definition) as (first, _):
            (tmp_path / "runs" / "runs").write_text("in the way")
            with pytest.raises(NotNow, match="the run cannot be kept"):
                await first.start("waiting", "S1")
            (run,) = await first.runs()
            assert (await first.wait(run.id)).status is RunStatus.CANCELLED

    asyncio.run(scenario())


def test_any_process_cancels_and_resumes(tmp_path: Path) -> None:
    steps = (Step("first", program("open('tries', 'a').write('x')")), Step("wait", WAIT, grace=0.5))

    async def scenario() -> None:
        async with two(tmp_path, Pipeline("waiting", steps), concurrency=1) as (first, second):
            run = (await first.start("waiting", "S1")).run.id
            queued = (await first.start("waiting", "S2")).run.id
            log = tmp_path / "runs" / "runs" / run / "logs" / "wait.log"
            await until(log.exists, what="the second step runs")
            assert (await second.cancel(queued)).id == queued
            assert (await second.wait(queued)).status is RunStatus.CANCELLED
            await second.cancel(run)
            cancelled = await second.wait(run)
            assert cancelled.status is RunStatus.CANCELLED
            assert [step.status for step in cancelled.steps] == [StepStatus.DONE, StepStatus.STOPPED]
            assert (await second.resume(run)).status.is_active
            await is_status(first, run, RunStatus.RUNNING)
            with pytest.raises(NotNow, match="is running"):
                await first.resume(run)
            with pytest.raises(NotNow, match="cancel it first"):
                await first.remove(run)
            go(tmp_path, run)
            assert (await first.wait(run)).status is RunStatus.FINISHED
            work = tmp_path / "runs" / "runs" / run / "work"
            assert (work / "tries").read_text() == "x", "the step that was done ran again"
            progress = [event.get("total", event.get("progress", 0)) for event in await events(first, run)]
            assert progress == sorted(progress)
            with pytest.raises(NotNow, match="only a failed"):
                await first.resume(run)
            await second.remove(run)
            with pytest.raises(NotFound):
                await first.run(run)
            assert not work.exists()

    asyncio.run(scenario())


def test_a_failed_run_is_resumed_at_the_step_that_failed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            flaky = program("import os, sys; sys.exit(not os.path.exists('mended'))")
            run = await finished(pipelines, Step("one", ("true",)), Step("two", flaky))
            assert run.status is RunStatus.FAILED
            (tmp_path / "runs" / "runs" / run.id / "work" / "mended").touch()
            await pipelines.resume(run.id)
            run = await pipelines.wait(run.id)
            assert run.status is RunStatus.FINISHED, run
            begun = [e["step"] for e in await events(pipelines, run.id) if e["status"] == "running" and "step" in e]
            assert begun.count("one") == 1

    asyncio.run(scenario())


def test_a_stopped_process_interrupts_its_runs_and_leaves_its_queue(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, WAITING, concurrency=1) as pipelines:
            run = (await pipelines.start("waiting", "S1")).run.id
            queued = (await pipelines.start("waiting", "S2")).run.id
            await is_status(pipelines, run, RunStatus.RUNNING)
        async with opened(tmp_path, WAITING, concurrency=1) as pipelines:
            found = await pipelines.run(run)
            assert found.status is RunStatus.INTERRUPTED
            assert "resume" in found.error
            await is_status(pipelines, queued, RunStatus.RUNNING)
            go(tmp_path, queued)
            assert (await pipelines.wait(queued)).status is RunStatus.FINISHED

    asyncio.run(scenario())


def test_old_runs_are_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, keep=2) as pipelines:
            runs = [(await finished(pipelines, Step("one", ("true",)), sample=f"S{n}")).id for n in range(4)]
            async with asyncio.timeout(20):
                while len(await pipelines.runs()) > 2:
                    await asyncio.sleep(0.05)
            assert [run.id for run in await pipelines.runs()] == runs[:1:-1]
            await until(lambda: len(list((tmp_path / "runs" / "runs").iterdir())) == 2, what="their files are gone")
            assert pipelines.hub.statistics().limits_reached["pipeline_keep"] == 2

    asyncio.run(scenario())


def test_expected_times_come_from_runs_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            step = Step("one", program("import time; time.sleep(0.2)"))
            assert (await finished(pipelines, step)).steps[0].expected is None
            run = await finished(pipelines, step)
            assert run.steps[0].expected is not None
            assert 0.2 <= run.steps[0].expected < 10

    asyncio.run(scenario())


def test_inputs_are_checked_before_the_start(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "S1.fastq").write_text("@1")
    (inputs / "empty.fastq").touch()
    (inputs / "false.fastq.gz").write_text("no gzip")
    (inputs / "S9.txt").write_text("x")
    reads = Input("reads", accept=(".fastq", ".fastq.gz"))
    definition = Pipeline(
        "mine", (Step("one", ("cat", "{reads}", "{more}")),), inputs=(reads, Input("more", optional=True))
    )

    async def scenario() -> None:
        async with opened(tmp_path, definition, inputs=inputs) as pipelines:
            run = await pipelines.wait((await pipelines.start("mine", "S1")).run.id)
            assert run.status is RunStatus.FINISHED, run
            assert (await pipelines.log(run.id)).data.decode().splitlines()[1] == "@1[tidewire] ended with 0"
            for sample, given, problem in (
                ("S2", {}, "of sample 'S2' is missing"),
                ("empty", {}, "is empty"),
                ("false", {}, "is no gzip file"),
                ("S1", {"reads": inputs / "S9.txt"}, "does not end with .fastq or"),
                ("S1", {"reads": inputs / "gone.fastq"}, "cannot be read"),
                ("S1", {"other": inputs / "S1.fastq"}, "has no input 'other'"),
                ("../S1", {}, "cannot be used"),
            ):
                with pytest.raises(BadStart, match=problem):
                    await pipelines.start("mine", sample, inputs=given)
            with pytest.raises(NotFound, match="there are mine"):
                await pipelines.start("yours", "S1")

    asyncio.run(scenario())


def test_progress_from_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two(tmp_path, WAITING) as (first, second):
            run = (await first.start("waiting", "S1")).run.id
            log = tmp_path / "runs" / "runs" / run / "logs" / "wait.log"
            await until(log.exists, what="the step runs")
            key = (await first.record(run)).key
            for wrong in ("", "x", key[:-1]):
                with pytest.raises(Forbidden):
                    await first.report(run, wrong, "wait", 0.5, "")
            with pytest.raises(NotFound):
                await first.report(run, key, "nothing", 0.5, "")
            await second.report(run, key, "wait", 0.4, "from another process")
            async with asyncio.timeout(20):
                while (await second.run(run)).steps[0].progress != 40:
                    await asyncio.sleep(0.02)
            await first.report(run, key, "wait", 0.3, "never back")
            assert (await first.run(run)).steps[0].progress == 40
            go(tmp_path, run)
            await first.wait(run)
            with pytest.raises(NotNow, match="does not run now"):
                await second.report(run, key, "wait", 0.5, "")

    asyncio.run(scenario())


def test_results_do_not_lead_out_of_their_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    text = """
import os, sys
os.symlink(sys.argv[2], sys.argv[1] + "/link")
os.mkdir(sys.argv[1] + "/in")
open(sys.argv[1] + "/in/a.txt", "w").write("a")
"""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(text, "{results}", str(secret))))
            assert run.status is RunStatus.FINISHED, run
            listed = await pipelines.results(run.id)
            assert [(file.name, file.problem[:31]) for file in listed] == [
                ("in/a.txt", ""),
                ("link", "is a link to a file outside of "),
            ]
            assert (await pipelines.result(run.id, "in/a.txt")).read_text() == "a"
            for name in ("link", "../work/../../../runs.db", str(secret), "in", "", "in/../../logs/one.log", "a\0b"):
                with pytest.raises(NotFound):
                    await pipelines.result(run.id, name)

    asyncio.run(scenario())


def test_never_more_at_a_time_than_the_limit(tmp_path: Path) -> None:
    alone = program(
        "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); os.unlink(sys.argv[1])", f"{tmp_path}/lock"
    )

    async def scenario() -> None:
        async with two(tmp_path, Pipeline("alone", (Step("one", alone),)), concurrency=1) as both:
            runs = [(await both[number % 2].start("alone", f"S{number}")).run.id for number in range(12)]
            for run in runs:
                assert (await both[0].wait(run)).status is RunStatus.FINISHED, await both[0].run(run)
            begun = [(await both[0].run(run)).started or 0.0 for run in runs]
            assert begun == sorted(begun), "first come, first served"

    asyncio.run(scenario())
