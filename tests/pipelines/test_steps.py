"""Steps are real programs: in their order, bounded in every way, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.support import at_work, events, exists, finished, opened, parent, program, programs, until, while_blocked
from requirements import require
from tidewire.pipelines import Input, Job, NotNow, Pipeline, Progress, RunStatus, Step, StepFailed, StepStatus
from tidewire.pipelines.processes import identity, is_alive

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def test_steps_run_in_their_order_and_side_by_side(tmp_path: Path) -> None:
    meet = """
import os, sys, time
mine, other = sys.argv[1:]
open(mine, "w").close()
end = time.monotonic() + 20
while not os.path.exists(other):
    assert time.monotonic() < end
    time.sleep(0.01)
"""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(
                pipelines,
                Step("first", program("open('start', 'w').close()")),
                Step("left", program(meet, "l", "r"), needs=("first",), weight=2),
                Step("right", program(meet, "r", "l"), needs=("first",)),
                Step("last", program("import os; print(sorted(os.listdir()))"), needs=("left", "right")),
            )
            assert run.status is RunStatus.FINISHED, run
            assert run.progress == 100
            text = (await pipelines.log(run.id, "last")).data.decode()
            assert "['first', 'l', 'last', 'left', 'r', 'right', 'start']" in text
            told = await events(pipelines, run.id)
            assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
            totals = [event.get("total", 0) for event in told if event["type"] == "step"]
            assert totals == sorted(totals)
            assert told[-1]["status"] == "finished"

    asyncio.run(scenario())


def test_what_a_step_is_given(tmp_path: Path) -> None:
    text = """
import os, sys
print(sys.argv[1:])
print(os.getcwd() == sys.argv[2], sys.stdin.read() == "", os.environ["MINE"], os.environ["TIDEWIRE_STEP"])
open(sys.argv[4] + "/out.txt", "w").write("result")
print("session", os.getsid(0) == os.getpid())
"""

    async def scenario() -> None:
        async with opened(tmp_path, threads=3) as pipelines:
            arguments = ("{sample};$(id)", "{workdir}", "{stepdir}", "{results}", "{threads}", "{{x}}")
            step = Step("one", program(text, *arguments), env={"MINE": "<{sample}>"}, outputs=("{results}/out.txt",))
            run = await finished(pipelines, step, sample="S.1")
            assert run.status is RunStatus.FINISHED, run
            log = (await pipelines.log(run.id, "one")).data.decode()
            folder = tmp_path / "runs" / "runs" / run.id
            given = ["S.1;$(id)", f"{folder}/work", f"{folder}/work/one", f"{folder}/results", "3", "{x}"]
            assert str(given) in log
            assert "True True <S.1> one" in log
            assert "session True" in log
            assert [file.name for file in await pipelines.results(run.id)] == ["out.txt"]

    asyncio.run(scenario())


def test_output_to_a_file_and_input_from_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(
                pipelines,
                Step("write", program("print('to the file')"), stdout="{workdir}/a.txt"),
                Step("read", program("import sys; print(sys.stdin.read().upper())"), stdin="a.txt"),
            )
            assert run.status is RunStatus.FINISHED, run
            assert b"TO THE FILE" in (await pipelines.log(run.id, "read")).data
            assert b"\nto the file" not in (await pipelines.log(run.id, "write")).data

    asyncio.run(scenario())


def test_a_failure_says_why_with_the_last_lines(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            text = "import sys; print('about to fail'); print('the reason', file=sys.stderr); sys.exit(3)"
            run = await finished(pipelines, Step("bad", program(text)), Step("never", ("true",)))
            assert run.status is RunStatus.FAILED
            assert run.error == "step 'bad' failed: it ended with exit code 3"
            bad, never = run.steps
            assert (bad.status, bad.exit_code) == (StepStatus.FAILED, 3)
            assert set(bad.lines) == {"about to fail", "the reason"}
            assert never.status is StepStatus.WAITING

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Step("bad", program("import os; os.kill(os.getpid(), 9)")), "it was ended by SIGKILL; perhaps memory ran out"),
        (Step("bad", ("true",), outputs=("x.bam",)), "it ended well, but x.bam is not there"),
        (Step("bad", ("true",), inputs=("/nowhere/x",)), "it needs /nowhere/x, which is not there"),
        (Step("bad", ("true",), stdin="/nowhere/x"), "it cannot be started (/nowhere/x: No such file or directory)"),
        (Step("bad", python="os:nothing"), "os:nothing cannot be imported"),
        (Step("bad", program("import time; time.sleep(60)"), timeout=0.3, grace=1), "it took longer than its 0.3 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ways_to_fail(tmp_path: Path, step: Step, error: str) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, step)
            assert run.status is RunStatus.FAILED
            assert error in run.steps[0].error

    asyncio.run(scenario())


def test_a_step_is_tried_again(tmp_path: Path) -> None:
    text = """
import os, sys
assert os.listdir(sys.argv[1]) == []
open(sys.argv[1] + "/left over", "w").close()
tries = len(open("tries", "a+").read()) if not os.path.exists("tries") else len(open("tries").read())
open("tries", "a").write("x")
sys.exit(tries < 2)
"""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            step = Step("flaky", program(text, "{stepdir}"), retries=3, retry_seconds=0.05)
            run = await finished(pipelines, step)
            assert run.status is RunStatus.FINISHED, run
            assert run.steps[0].attempt == 3
            attempts = [e["attempt"] for e in await events(pipelines, run.id) if e["type"] == "step"]
            assert attempts == sorted(attempts)
            assert set(attempts) == {1, 2, 3}

    asyncio.run(scenario())


def test_programs_say_how_far_they_are(tmp_path: Path) -> None:
    text = """
import os, time
for part in (1, 2, 3):
    said = b'{"progress": 0.%d, "message": "part %d"}\\nno\\n' % (part, part)
    os.write(int(os.environ["TIDEWIRE_PROGRESS_FD"]), said)
    time.sleep(0.15)
"""
    lines = "import time\nfor part in (20, 10, 60): print(part, '%', flush=True); time.sleep(0.15)"

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            said = Step("said", program(text), needs=())
            found = Step("found", program(lines), needs=(), progress=Progress(pattern=r"(\d+) %"))
            run = await finished(pipelines, said, found)
            assert run.status is RunStatus.FINISHED, run
            told = [event for event in await events(pipelines, run.id) if event["type"] == "step"]
            for name, expected in (("said", [10, 20, 30, 100]), ("found", [20, 60, 100])):
                progress = [event["progress"] for event in told if event["step"] == name]
                assert progress == sorted(progress)
                assert set(progress) <= {0, *expected}
                assert progress[-2:] == expected[-2:]
            assert "part 3" in [event.get("message") for event in told]

    asyncio.run(scenario())


async def work(job: Job) -> None:
    await job.progress(0.5, "half")
    job.log(f"sample {job.sample}")
    await asyncio.to_thread(job.progress_nowait, 0.75, "in a thread")
    (job.results / "made.txt").write_text(job.inputs["reads"].read_text())
    await asyncio.sleep(0.3)


async def refuse(job: Job) -> None:
    raise StepFailed(f"{job.sample} is not good; take another")


async def hang(job: Job) -> None:
    await asyncio.Event().wait()


def test_functions_of_this_process(tmp_path: Path) -> None:
    reads = tmp_path / "S1.fastq"
    reads.write_text("@1\nA\n+\nI\n")

    async def scenario() -> None:
        definition = Pipeline("mine", (Step("work", function=work),), inputs=(Input("reads"),))
        async with opened(tmp_path, definition) as pipelines:
            started = await pipelines.start("mine", "S1", inputs={"reads": reads})
            run = await pipelines.wait(started.run.id)
            assert run.status is RunStatus.FINISHED, run
            assert run.steps[0].message == "in a thread"
            assert b"sample S1" in (await pipelines.log(run.id)).data
            assert (await pipelines.result(run.id, "made.txt")).read_text() == reads.read_text()
            run = await finished(pipelines, Step("refuse", function=refuse))
            assert run.steps[0].error == "S1 is not good; take another"
            run = await finished(pipelines, Step("hang", function=hang, timeout=0.2))
            assert run.steps[0].error == "it took longer than its 0.2 s"

    asyncio.run(scenario())


_STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    grandchild = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    subprocess.Popen([sys.executable, "-I", "-S", "-c", grandchild], start_new_session=sys.argv[1] == "away")
print("ready", flush=True)
time.sleep(300)
"""


@linux
@pytest.mark.parametrize("where", ["here", "away"])
def test_cancel_ends_who_ignores_term_and_all_below(tmp_path: Path, where: str) -> None:
    async def scenario() -> None:
        pipeline = Pipeline("stubborn", (Step("one", program(_STUBBORN, where), grace=0.3),))
        async with opened(tmp_path, pipeline) as pipelines:
            started = await pipelines.start("stubborn", "S1")
            log = tmp_path / "runs" / "runs" / started.run.id / "logs" / "one.log"
            await until(lambda: log.exists() and b"\nready\n" in log.read_bytes(), what="the program runs")
            below = at_work(os.getpid())
            names = [identity(pid) for pid in below]
            assert len(names) >= 3  # the guard, the program, and its child
            await pipelines.cancel(started.run.id)
            run = await pipelines.wait(started.run.id)
            assert run.status is RunStatus.CANCELLED
            assert run.steps[0].status is StepStatus.STOPPED
            await until(lambda: not any(map(is_alive, names)), what="all have ended")
            assert not any(map(exists, below)), "a zombie is left"
            with pytest.raises(NotNow, match="cancelled"):
                await pipelines.cancel(run.id)

    asyncio.run(scenario())


@linux
def test_what_a_step_leaves_behind_is_ended(tmp_path: Path) -> None:
    text = "import subprocess; print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid)"

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(text)))
            assert run.status is RunStatus.FINISHED, run
            log = (await pipelines.log(run.id)).data.decode()
            assert "1 processes that it left behind were ended" in log
            pid = next(int(line) for line in log.splitlines() if line.isdecimal())
            assert not exists(pid)

    asyncio.run(scenario())


@linux
def test_what_never_keeps_its_number_is_ended(tmp_path: Path) -> None:
    flee = "import os, time\nwhile True:\n if os.fork(): os._exit(0)\n time.sleep(0.001)"

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("flee", program(flee)))
            assert run.status is RunStatus.FINISHED, run
            assert "that it left behind were ended" in (await pipelines.log(run.id)).data.decode()
            assert not programs(os.getpid())

    asyncio.run(scenario())


@linux
def test_a_guard_that_is_killed_takes_its_program_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        pipeline = Pipeline("one", (Step("one", program(_STUBBORN)),))
        async with opened(tmp_path, pipeline) as pipelines:
            started = await pipelines.start("one", "S1")
            log = tmp_path / "runs" / "runs" / started.run.id / "logs" / "one.log"
            await until(lambda: log.exists() and b"\nready\n" in log.read_bytes(), what="the program runs")
            (child,) = programs(os.getpid())
            name = identity(child)
            os.kill(parent(child), signal.SIGKILL)
            # the loop stands still meanwhile: as when the server was killed, too
            while_blocked(lambda: not is_alive(name))
            run = await pipelines.wait(started.run.id)
            assert run.error == "step 'one' failed: the process that watched it was killed"

    asyncio.run(scenario())


def test_a_flood_is_bounded_and_said(tmp_path: Path) -> None:
    flood = "import os\nline = b'x' * 99 + b'\\n'\nfor _ in range(4000): os.write(1, line * 500)\nprint('the end')"

    async def scenario() -> None:
        async with opened(tmp_path, log_bytes=1_000_000) as pipelines:
            run = await finished(pipelines, Step("flood", program(flood)), seconds=90)
            assert run.status is RunStatus.FINISHED, run
            log = tmp_path / "runs" / "runs" / run.id / "logs" / "flood.log"
            text = log.read_bytes()
            assert len(text) < 1_100_000
            assert b"are left out here: the log is full" in text
            assert b"the end\n[tidewire] ended with 0\n" in text
            assert pipelines.hub.statistics().limits_reached["pipeline_log_bytes"] == 1

    asyncio.run(scenario())


def test_a_missing_program_is_said_before_anything_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            with pytest.raises(NotNow) as raised:
                await finished(pipelines, Step("qc", ("no-such-program",), package="no-such-package"))
            assert "no-such-program (step 'qc')" in str(raised.value)
            assert str(raised.value).endswith("apt-get install no-such-package")
            assert await pipelines.runs() == []

    asyncio.run(scenario())


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("with open('fill', 'wb', 0) as f:\n while True: f.write(bytes(65536))", "exit code 1"),
        ("while True: print('x' * 999)", "the disk of the runs is full; free some space, then resume the run"),
    ],
)
def test_a_full_disk_fails_the_run_and_nothing_else(tmp_path: Path, text: str, error: str) -> None:
    require(os.geteuid() == 0 and shutil.which("mount"), "mount, as root")
    disk = tmp_path / "runs"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    require(mounted.returncode == 0, "the right to mount a tmpfs")
    try:

        async def scenario() -> None:
            async with opened(tmp_path) as pipelines:
                run = await finished(pipelines, Step("full", program(text)), seconds=60)
                assert run.status is RunStatus.FAILED
                assert error in run.error
                await pipelines.remove(run.id)
                after = await finished(pipelines, Step("fine", program("print('fine')")), sample="S2")
                assert after.status is RunStatus.FINISHED, after

        asyncio.run(scenario())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@linux
def test_a_stopping_process_does_not_wait_for_the_grace_of_its_programs(tmp_path: Path) -> None:
    async def scenario() -> None:
        pipeline = Pipeline("stubborn", (Step("one", program(_STUBBORN, "away"), grace=60),))
        async with opened(tmp_path, pipeline) as pipelines:
            started = await pipelines.start("stubborn", "S1")
            log = tmp_path / "runs" / "runs" / started.run.id / "logs" / "one.log"
            await until(lambda: log.exists() and b"\nready\n" in log.read_bytes(), what="the program runs")
            names = [identity(pid) for pid in at_work(os.getpid())]
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 20
        assert not any(map(is_alive, names))

    asyncio.run(scenario())
