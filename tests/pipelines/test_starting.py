"""Starting a step: its processes start fast, one guard waits ahead, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from pipelines.support import below, finished, opened, program, programs, until
from tidewire import Hub
from tidewire.pipelines import Pipeline, Pipelines, RunStatus, Step
from tidewire.pipelines.guard_pool import Guards
from tidewire.pipelines.processes import identity, is_alive

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from tidewire.pipelines import Job, RemoteJob, StepFailed", "fastapi: False"),
        ("from tidewire.pipelines.job import Job", "fastapi: False"),
        ("from tidewire.pipelines import job, readqc", "fastapi: False"),
        ("from tidewire import Hub\nfrom tidewire.pipelines import Pipelines, Job", "fastapi: True"),
        ("import tidewire\nassert not hasattr(tidewire, 'nothing')", "fastapi: False"),
    ],
)  # fmt: skip
def test_a_step_imports_what_it_uses_alone(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mine.py").write_text(
        f"{text}\nimport sys\n\ndef work(job):\n    print('fastapi:', 'fastapi' in sys.modules)\n"
    )

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            definition = Pipeline("test", (Step("one", python="mine:work"),), folder=str(tmp_path))
            pipelines.definitions["test"] = definition
            run = await pipelines.wait((await pipelines.start("test", "S1")).run.id)
            log = (await pipelines.log(run.id)).data.decode()
            assert run.status is RunStatus.FINISHED, log
            assert expected in log

    asyncio.run(scenario())


@linux
def test_one_guard_waits_for_the_next_step_and_ends_with_its_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            echo = program("import os; print('guarded by', os.getppid())")
            run = await finished(pipelines, Step("one", echo))
            first = int((await pipelines.log(run.id)).data.decode().partition("\nguarded by ")[2].split()[0])
            # the guard of the first step, and its program, may still be ending
            waiting = await until(lambda: set(below(os.getpid())) - {first, *programs(os.getpid())}, what="one waits")
            (guard,) = waiting
            name = identity(guard)
            run = await finished(pipelines, Step("two", echo), sample="S2")
            assert f"guarded by {guard}" in (await pipelines.log(run.id)).data.decode()
            assert not is_alive(name)
            await until(lambda: len(below(os.getpid())) == 1, what="another one waits")
        assert not below(os.getpid())

    asyncio.run(scenario())


@linux
def test_guards_that_died_waiting_or_whose_taker_gave_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        guards = Guards()
        for _ in range(5):
            taking = asyncio.create_task(guards.take())
            await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
        guards.prepare()
        await until(lambda: len(below(os.getpid())) == 1, what="one has started")
        os.kill(below(os.getpid())[0], 9)
        await until(lambda: not below(os.getpid()), what="it is dead")
        guard = await guards.take()
        assert guard.returncode is None
        assert guard.stdin is not None
        guard.stdin.close()
        await guard.wait()
        await guards.aclose()
        assert not below(os.getpid())

    asyncio.run(scenario())


@linux
def test_what_a_program_says_that_is_no_text_ends_nobody(tmp_path: Path) -> None:
    text = r"""
import os
message, error = rb'{"message": "half \ud800", "progress": NaN}', rb'{"error": "\udfff"}'
for said in (message, rb'{"progress": -1e400}', error, b'\xff', b'[]'):
    os.write(int(os.environ["TIDEWIRE_PROGRESS_FD"]), said + b"\n")
raise SystemExit(3)
"""

    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:
            run = await finished(pipelines, Step("one", program(text)))
            assert (run.status, run.steps[0].exit_code, run.steps[0].message) == (RunStatus.FAILED, 3, "half ?")
            assert run.error == "step 'one' failed: ?"

    asyncio.run(scenario())


@linux
def test_a_failure_while_watching_leaves_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as pipelines:

            async def failing(*_: object) -> None:
                raise RuntimeError("something that nobody thought of")

            monkeypatch.setattr(pipelines._store, "set_processes", failing)
            run = await finished(pipelines, Step("one", ("sleep", "300"), grace=0.3))
            assert "the server failed at it" in run.error
            assert not programs(os.getpid())

    asyncio.run(scenario())


def test_a_step_may_name_the_url_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Hub("memory://") as hub, Pipelines(hub, tmp_path / "runs", url="http://127.0.0.1:1") as pipelines:
            show = program("import os; print(os.environ['TIDEWIRE_URL'])")
            run = await finished(
                pipelines, Step("one", show), Step("two", show, env={"TIDEWIRE_URL": "https://a.example"})
            )
            assert run.status is RunStatus.FINISHED, run
            for name, url in (("one", b"http://127.0.0.1:1"), ("two", b"https://a.example")):
                assert b"\n" + url + b"\n" in (await pipelines.log(run.id, name)).data

    asyncio.run(scenario())
