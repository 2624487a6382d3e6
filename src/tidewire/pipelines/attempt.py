"""One attempt at one step: its arguments and environment, the files it needs and makes, and why it failed."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tidewire.pipelines import boot
from tidewire.pipelines.coroutine_step import run_function
from tidewire.pipelines.definition import Pipeline, Step
from tidewire.pipelines.environment import environment
from tidewire.pipelines.errors import BadStart
from tidewire.pipelines.folders import RunFolder
from tidewire.pipelines.guard_pool import Guards
from tidewire.pipelines.job import JobFacts
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.naming import expand, expand_argument
from tidewire.pipelines.process import Ended, Listener, Program, as_table, run_program
from tidewire.pipelines.programs import program_path, program_problem, unbuffered

__all__ = ("RunFacts", "explain", "run_attempt")


class RunFacts(msgspec.Struct, frozen=True):
    """The facts that all steps of a run share. `paths` has its input files, `key` authorises progress reports."""

    id: str
    sample: str
    pipeline: Pipeline
    folder: RunFolder
    paths: Mapping[str, str]
    key: str
    url: str
    limits: PipelineLimits


async def run_attempt(run: RunFacts, step: Step, attempt: int, listener: Listener, guards: Guards) -> Ended:
    """Run one attempt. Raises BadStart for a missing input file, OSError when the disk is full."""
    # in a thread: the folder of an assembly has many files to remove
    facts = await asyncio.to_thread(_facts, run, step, attempt)
    values = _values(run, facts)
    _check_there((expand(path, values) for path in step.inputs), facts.workdir, "it needs {}, which is not there")
    if step.is_local:
        ended = await run_function(
            step.function,
            facts,
            listener,
            log=run.folder.log(step.name),
            log_bytes=run.limits.log_bytes,
            log_rate=run.limits.log_rate,
            timeout=step.timeout,
        )
    else:
        ended = await run_program(_program(run, step, facts, values), listener, guards)
    if ended.exit == 0 and not ended.reason and not ended.error:
        _check_there(
            (expand(path, values) for path in step.outputs), facts.workdir, "it ended well, but {} is not there"
        )
    return ended


def _facts(run: RunFacts, step: Step, attempt: int) -> JobFacts:
    run.folder.make()
    return JobFacts(
        run=run.id,
        step=step.name,
        sample=run.sample,
        threads=run.limits.threads or os.cpu_count() or 1,
        attempt=attempt,
        workdir=str(run.folder.work),
        stepdir=str(run.folder.fresh_stepdir(step.name)),
        results=str(run.folder.results),
        inputs=dict(run.paths),
        key=run.key,
        url=run.url,
    )


def _values(run: RunFacts, facts: JobFacts) -> dict[str, str]:
    given = {known.name: run.paths.get(known.name, "") for known in run.pipeline.inputs}
    return given | {
        "sample": facts.sample,
        "threads": str(facts.threads),
        "workdir": facts.workdir,
        "stepdir": facts.stepdir,
        "results": facts.results,
        "run": facts.run,
        "pipeline": run.pipeline.name,
        "folder": run.pipeline.folder,
    }


def _program(run: RunFacts, step: Step, facts: JobFacts, values: dict[str, str]) -> Program:
    if step.run:
        if problem := program_problem(step, run.pipeline.folder):
            raise BadStart(problem)
        argv = [step.run[0], *(expand_argument(part, values) for part in step.run[1:])]
        # an argument that consists of an optional input is left out if that input was not given
        argv = unbuffered([done for done, part in zip(argv, step.run, strict=True) if done or not part])
        more: dict[str, str] = {}
    else:
        argv = [sys.executable, "-P", boot.__file__, "tidewire.pipelines.child", step.reference]
        more = {"TIDEWIRE_JOB": msgspec.json.encode(facts).decode(), "PYTHONPATH": _python_path(run.pipeline.folder)}
    if facts.url:
        more["TIDEWIRE_URL"] = facts.url  # `env` of a step may replace it
    more |= {name: expand(value, values) for name, value in step.env.items()}
    more |= {"TIDEWIRE_RUN": facts.run, "TIDEWIRE_STEP": facts.step, "TIDEWIRE_RUN_KEY": facts.key}
    limits = run.limits
    return Program(
        program=program_path(step, run.pipeline.folder) or argv[0] if step.run else argv[0],
        argv=argv,
        env=environment(step.pass_env, **more),
        cwd=facts.workdir,
        log=str(run.folder.log(step.name)),
        heading=f"attempt {facts.attempt}: {shlex.join(argv) if step.run else step.reference}",
        log_bytes=limits.log_bytes,
        log_rate=limits.log_rate,
        progress=as_table(step.progress, values.get(step.progress.input, "")),
        stdin=expand(step.stdin, values),
        stdout=expand(step.stdout, values),
        timeout=step.timeout or 0.0,
        grace=step.grace,
        nice=step.nice,
        memory=step.memory,
    )


def _python_path(folder: str) -> str:
    """Return the import path of a function's module: the pipeline's folder, then the path of this process."""
    own = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    return os.pathsep.join(([folder] if folder else []) + own)


def _check_there(paths: Iterable[str], folder: str, problem: str) -> None:
    for path in paths:
        found = Path(folder, path)
        if not found.exists() or (found.is_file() and not found.stat().st_size):
            raise BadStart(problem.format(path) + (" or empty" if found.exists() else ""))


def explain(step: Step, ended: Ended) -> str:
    """Return why a step failed, or "" when it succeeded."""
    if ended.reason == "timeout":
        return f"it took longer than its {step.timeout:g} s"
    if ended.error:
        return ended.error
    if ended.exit == 0 and not ended.reason:
        return ""
    if ended.exit is not None and ended.exit < 0:
        name = signal.Signals(-ended.exit).name if -ended.exit in list(signal.Signals) else f"signal {-ended.exit}"
        return f"it was ended by {name}" + ("; perhaps memory ran out" if name == "SIGKILL" else "")
    return f"it ended with exit code {ended.exit}"
