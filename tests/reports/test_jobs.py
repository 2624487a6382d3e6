"""Programs as people run them: bars, colours, buffers, scripts of another system, retries, and a guard that dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from pipelines.support import at_work, events, finished, opened, parent, program, programs, until
from tidewire.pipelines import Job, NotNow, Pipeline, Pipelines, Progress, Run, RunStatus, Step, StepStatus
from tidewire.pipelines.definition_files import load
from tidewire.pipelines.output import plain
from tidewire.pipelines.processes import identity, is_alive
from tidewire.pipelines.program_messages import ProgramMessages
from tidewire.pipelines.progress import percent, rule_from
from tidewire.pipelines.runs import StepState

WAIT = "\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.02)"


async def progress_is(pipelines: Pipelines, run: str, expected: int) -> None:
    async with asyncio.timeout(20):
        while (await pipelines.run(run)).steps[0].progress != expected:
            await asyncio.sleep(0.02)


async def step_shows(folder: Path, step: Step, expected: int) -> None:
    """Run a step, and wait until it shows a percentage while it still runs."""
    async with opened(folder, Pipeline("test", (step,))) as pipelines:
        run = (await pipelines.start("test", "S1")).run.id
        await progress_is(pipelines, run, expected)
        (folder / "runs" / "runs" / run / "work" / "go").touch()
        assert (await pipelines.wait(run)).status is RunStatus.FINISHED


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"(\d+)%", r"\r 10%|#  |\r 45%|## |", 45),
        (r"([\d,.]+)\s*%", "12,5%\\n", 12),
        (r"(\d+)%", "29%\\n", 29),
        (r"(\d+)/(\d+)", r"\r 57/100", 57),
        (r"([\d,]+) of ([\d,]+)", "1,234 of 2,000\\n", 61),
        (r"(\d+)%", "{long} 33%\\n", 33),
        (r"(\d+)%", "31%{long}\\n", 31),
    ],
)
def test_progress_is_that_of_the_bar(tmp_path: Path, pattern: str, text: str, expected: int) -> None:
    """A bar of tqdm showed one update late, "12,5%" was 99, 29% was 28, and a long line lost its progress."""
    text = text.replace("{long}", "' + 'x' * 300_000 + '")
    step = Step(
        "one",
        program(f"import sys; sys.stdout.write('{text}'); sys.stdout.flush(){WAIT}"),
        progress=Progress(pattern=pattern),
    )
    asyncio.run(step_shows(tmp_path, step, expected))


@pytest.mark.parametrize(
    ("pattern", "text", "fraction"),
    [
        (r"([\d,.]+)\s*%", "12,5\u00a0%\n", 0.125),
        (r"([\d,.]+)\s*%", "12,5\u202f%\n", 0.125),
        (r"(\d+)%", "\x1b[1m12\x1b[0m\x1b[36m%\x1b[0m\n", 0.12),
        (r"^done (\d+)%", "\x1b[32mdone 12%\x1b[0m\r", 0.12),
        (r"(\d+)%", "\x1b[2K\x1b[1G 12%\x1b[", 0.12),
        (r"(\S+)/(\S+)", "1.2k/3.0k\n", 0.4),
        (r"(\S+)/(\S+)", "512KiB/1.0MiB\n", 0.5),
        (r"(\S+)/(\S+)", "2MB/8MB\n", 0.25),
        (r"([\d ]+) of ([\d ]+)", "1 200 of 2 400\n", 0.5),
        (r"([\d.]+) von ([\d.]+)", "1.200.000 von 2.400.000\n", 0.5),
        (r"([\d.]+) von ([\d.]+)", "500 von 2.400\n", 500 / 2_400),
        (r"(\d+)%|(\d+)/\d+", "12%\n", 0.12),
        (r"(\S+)%", "1.2e+01%\n", 0.12),
        (r"(\S+)%", "inf%\nnan%\n", 0.0),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() and value.isprintable() else "",
)
def test_numbers_of_bars_are_read_as_people_read_them(pattern: str, text: str, fraction: float) -> None:
    """A unit, a space between thousands, a colour before the % or a French space showed 0, and 500 of 2.400 was 99."""
    rule = rule_from({"pattern": pattern})
    rule.feed(text.encode())
    assert rule.fraction == pytest.approx(fraction)


def test_null_in_a_message_of_a_program_says_nothing() -> None:
    """`{"error": null}` failed a step that ended well, with the error "None"."""
    messages = ProgramMessages()
    messages.feed(b'{"progress": null, "message": null, "error": null}\n')
    assert (messages.fraction, messages.message, messages.error, messages.problem) == (0.0, "", "", "")


def test_a_number_that_is_written_in_two_pieces_is_not_taken_for_its_beginning() -> None:
    """An unfinished "5 of 1" is not five times done."""
    rule = rule_from({"pattern": r"(\d+) of (\d+)"})
    rule.feed(b"\r5 of 1")
    assert (rule.fraction, rule.is_unsettled) == (0.0, True)
    rule.feed(b"000")
    rule.settle()
    assert rule.fraction == pytest.approx(0.005)


def test_percentages_are_not_rounded_down_by_binary_fractions() -> None:
    """0.29 * 100 is 28.999…, for a run's weights, too."""
    assert [percent(number / 100) for number in range(101)] == list(range(101))
    steps = tuple(StepState(name, name, weight, (), 1) for name, weight in (("a", 0.1), ("b", 0.2), ("c", 0.7)))
    run = Run("r", "p", "P", "S", "", 0.0, (), steps)
    for step in steps:
        run = run.with_step(StepState(step.name, step.title, step.weight, (), 1, StepStatus.RUNNING, 29))
    assert run.progress == 29


@pytest.mark.parametrize(
    ("lines", "fraction"),
    [
        (b'{"progress": 45}\n', 0.45),
        (b'{"progress": 0.45}\n{"progress": 1}\n', 1.0),
        (b'{"progress": 1}\n{"progress": 2}\n', 0.02),
        (b'{"progress": "45%"}\n', 0.45),
        (b'{"progress": "12,5"}\n', 0.125),
        (b'{"message": "' + b"x" * 30_000 + b'", "progress": 0.4}\n', 0.4),
        (b'{"progress": 0.4, "message": "' + b"x" * 300_000 + b'"}\n', 0.4),
        (b'{"progress": 4500}\n', 0.0),
        (b'{"progress": NaN}\n[]\nnull\nx\n{"progress": {}}\n', 0.0),
    ],
)
def test_a_program_that_says_percent_means_percent(lines: bytes, fraction: float) -> None:
    """`{"progress": 45}` showed as 99, and a line over 4 KiB lost its progress."""
    messages = ProgramMessages()
    for begin in range(0, len(lines), 5_000):
        messages.feed(lines[begin : begin + 5_000])
    assert messages.fraction == pytest.approx(fraction)
    assert bool(messages.problem) == (fraction == 0.0 or len(lines) > 65_536)


def test_a_message_that_cannot_be_used_is_noted_in_the_log(tmp_path: Path) -> None:
    """A wrong value was ignored in silence."""
    text = """import os; os.write(int(os.environ["TIDEWIRE_PROGRESS_FD"]), b'{"progress": 4500}\\n')"""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(text)))
            assert b"progress '4500' is no number from 0 to 1" in (await pipelines.log(run.id, "one")).data

    asyncio.run(scenario())


def test_a_python_program_shows_progress_before_its_end(tmp_path: Path) -> None:
    """Python keeps its output back when it is no terminal: a bar appeared at the end."""
    script = tmp_path / "slow.py"
    script.write_text(f"import sys\nprint('40%'){WAIT}")
    step = Step("one", ("sh", "-c", f"{sys.executable} {script}"), progress=Progress(pattern=r"(\d+)%"))
    asyncio.run(step_shows(tmp_path, step, 40))


@pytest.mark.parametrize("options", [("-I",), ("-sE",), ("-IS", "-X", "utf8")])
def test_a_python_that_reads_no_environment_shows_progress_before_its_end(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """`python -I` and `python -E` do not read PYTHONUNBUFFERED."""
    script = tmp_path / "slow.py"
    script.write_text(f"print('40%'){WAIT}")
    step = Step("one", (sys.executable, *options, str(script)), progress=Progress(pattern=r"(\d+)%"))
    asyncio.run(step_shows(tmp_path, step, 40))


def test_what_a_terminal_shows_of_a_text() -> None:
    """Logs and last lines had raw colour codes, and all states of a bar."""
    assert plain("\x1b[31mred\x1b[0m\n\r 10%\r 20%\r\n\x1b]0;title\x07done\x1b[K\r\n") == "red\n 20%\ndone\n"
    assert plain("abc\x08\x08\x08xy") == "xy"
    assert plain("a\x07b\x00\x0f\tc\x9b\x1b") == "ab\tc"


def test_last_lines_have_no_colours(tmp_path: Path) -> None:
    """The last lines of a failed step showed `\\x1b[31m` and every state of a bar."""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            text = r"print('\x1b[31mred\x1b[0m\n\r 10%\r 20%', flush=True); raise SystemExit(3)"
            run = await finished(pipelines, Step("one", program(text)))
            assert run.steps[0].lines == ("red", " 20%")

    asyncio.run(scenario())


def test_who_hears_finished_reads_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer heard "finished", asked for the run, and read "running"."""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            seen: list[tuple[bytes, Run]] = []
            publish = pipelines.hub.node.publish

            async def publishing(channel: str, data: bytes, *arguments: object, **options: object) -> object:
                answer = await publish(channel, data, *arguments, **options)  # type: ignore[arg-type]
                if channel.startswith("$pipeline:"):
                    seen.append((data, await pipelines.run(channel.partition(":")[2])))
                return answer

            monkeypatch.setattr(pipelines.hub.node, "publish", publishing)
            await finished(pipelines, Step("one", ("true",)), Step("two", ("false",)))
            for data, run in seen:
                for status in ("done", "failed"):
                    if f'"status":"{status}"'.encode() in data:
                        assert f"StepStatus.{status.upper()}" in repr(run.steps) or run.status.value == status, data
            assert seen[-1][1].status is RunStatus.FAILED

    asyncio.run(scenario())


def script(folder: Path, text: str, *, mode: int = 0o755) -> Pipeline:
    (folder / "said.py").write_bytes(text.encode())
    (folder / "said.py").chmod(mode)
    (folder / "mine.toml").write_text('[[steps]]\nname = "one"\nrun = ["./said.py"]\n')
    return load(folder / "mine.toml")


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (f"#!{sys.executable}\n", 0o644, "is not executable; chmod"),
        (f"#!{sys.executable}\r\nprint(1)\r\n", 0o755, "CRLF"),
        ("#!/no/such/python\n", 0o755, "/no/such/python, which is not there"),
        ("#!/usr/bin/env no-such-python\n", 0o755, "no-such-python, which is not installed"),
        ("print(1)\n", 0o755, "no first line"),
        ("# zähle\r\nprint(1)\r\n", 0o755, "no first line"),
        (f"\n#!{sys.executable}\n", 0o755, "no first line"),
        (f"\ufeff#!{sys.executable}\n", 0o755, "byte order mark"),
        ("", 0o755, "is empty"),
        ("#!/usr\n", 0o755, "/usr, which is no program"),
        (f"#!{sys.executable}\n", 0o755, ""),
    ],
)
def test_a_script_that_cannot_be_started_is_explained(tmp_path: Path, text: str, mode: int, problem: str) -> None:
    """`apt-get install said.py` was the advice for a script that is not executable, or that has CRLF after `#!`."""

    async def scenario() -> None:
        async with opened(tmp_path, script(tmp_path, text, mode=mode)) as pipelines:
            if not problem:
                run = (await pipelines.start("mine", "S1")).run.id
                assert (await pipelines.wait(run)).status is RunStatus.FINISHED
                return
            with pytest.raises(NotNow, match=problem) as caught:
                await pipelines.start("mine", "S1")
            assert "apt-get" not in str(caught.value)

    asyncio.run(scenario())


def raising(_: Job) -> None:
    """A step."""
    raise ValueError("the reads have no names")


def leaving(_: Job) -> None:
    """A step."""
    sys.exit("nothing to do")


def filling(_: Job) -> None:
    """A step."""
    bytearray(1 << 30)


def test_an_exception_of_a_python_step_is_its_error(tmp_path: Path) -> None:
    """It was "exit code 1"."""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", python="reports.test_jobs:raising"))
            assert run.steps[0].error == "ValueError: the reads have no names"
            assert any("Traceback" in line for line in run.steps[0].lines)
            run = await finished(pipelines, Step("one", python="reports.test_jobs:leaving"))
            assert run.steps[0].error == "nothing to do"
            run = await finished(pipelines, Step("one", python="reports.test_jobs:filling", memory=600 << 20))
            assert run.steps[0].error.startswith("memory ran out")

    asyncio.run(scenario())


def test_the_pause_before_a_retry_is_shown(tmp_path: Path) -> None:
    """Nothing was shown between two attempts, for minutes."""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", ("false",), retries=1, retry_seconds=0.3))
            messages = [event.get("message", "") for event in await events(pipelines, run.id)]
            said = "attempt 1 of 2 failed: it ended with exit code 1; trying again in 0.3 s"
            assert said in messages

    asyncio.run(scenario())


def test_secrets_of_the_server_do_not_reach_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step had AWS_*, PG*, DATABASE_URL and the like of the server."""
    for name in ("AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "DATABASE_URL", "TIDEWIRE_SECRET", "LAB_QUEUE", "LAB_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_TIME", "C")
    text = "import os; print(*sorted(os.environ)); print(open(f'/proc/{os.getppid()}/environ').read())"

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(text), env={"MINE": "1"}, pass_env=("LAB_Q*",)))
            log = (await pipelines.log(run.id, "one")).data.decode()
            assert run.status is RunStatus.FINISHED, log
            for name in ("AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "DATABASE_URL", "TIDEWIRE_SECRET", "LAB_KEY"):
                assert name not in log.split("\n", 1)[1]
            assert {"PATH", "LC_TIME", "LAB_QUEUE", "MINE", "TIDEWIRE_RUN"} <= set(log.split())

    asyncio.run(scenario())


def test_a_killed_guard_ends_its_run_and_all_below_it(tmp_path: Path) -> None:
    """A grandchild had a copy of the guard's pipe: the run stayed "running" for hours, under uvloop at least."""
    uvloop = pytest.importorskip("uvloop")
    text = "import os, time\nif not os.fork(): os.setsid()\ntime.sleep(600)"

    async def scenario() -> None:
        async with opened(tmp_path, Pipeline("test", (Step("one", program(text)),))) as pipelines:
            run = (await pipelines.start("test", "S1")).run.id
            await until(lambda: len(programs(os.getpid())) == 2, what="both run")
            running = [identity(pid) for pid in programs(os.getpid())]
            guard = next(pid for pid in at_work(os.getpid()) if parent(pid) == os.getpid())
            os.kill(guard, signal.SIGKILL)
            async with asyncio.timeout(15):
                found = await pipelines.wait(run)
            assert (found.status, found.steps[0].error) == (RunStatus.FAILED, "the process that watched it was killed")
            await until(lambda: not any(map(is_alive, running)), what="nothing is left")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
