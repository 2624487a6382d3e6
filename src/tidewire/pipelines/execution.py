"""Runs the steps of one run in order, in parallel where their needs allow it, and retries them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from tidewire.errors import StoreUnavailable
from tidewire.pipelines.attempt import RunFacts, explain, run_attempt
from tidewire.pipelines.definition import Step
from tidewire.pipelines.errors import BadStart
from tidewire.pipelines.guard_pool import Guards
from tidewire.pipelines.process import Ended, Listener
from tidewire.pipelines.progress import percent
from tidewire.pipelines.reporter import Reporter
from tidewire.pipelines.run_store import RunStore
from tidewire.pipelines.runs import RunStatus, StepState, StepStatus

__all__ = ("Execution",)

logger = logging.getLogger("tidewire.pipelines")

_LONGEST_PAUSE = 300.0
#: Characters of the message of a step.
_MESSAGE = 500


class Execution:
    """One running run: `run` returns when all steps are done, one has failed, or it was cancelled."""

    def __init__(
        self,
        facts: RunFacts,
        reporter: Reporter,
        store: RunStore,
        guards: Guards,
        *,
        count: Callable[[str], None],
        is_closing: Callable[[], bool],
    ) -> None:
        self._facts = facts
        self._reporter = reporter
        self._store = store
        self._guards = guards
        self._count = count
        self._is_closing = is_closing
        self._tasks: dict[asyncio.Task[bool], Step] = {}

    async def run(self) -> None:
        """Run the steps that are not done, and note how the run ended. No process is left when this returns."""
        self._reporter.note_run(RunStatus.RUNNING)
        failed: list[str] = []
        try:
            while self._start_ready(failed):
                done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    step = self._tasks.pop(task)
                    if not task.result():
                        failed.append(step.name)
        finally:
            await self._stop()
        if failed:
            first = self._reporter.run.step(failed[0])
            self._reporter.note_run(RunStatus.FAILED, error=f"step {first.name!r} failed: {first.error}")
        else:
            self._reporter.note_run(RunStatus.FINISHED)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            waiting = [task for task in self._tasks if not task.done()]
            if not waiting:
                break
            try:
                await asyncio.wait(waiting)
            except asyncio.CancelledError:
                continue  # cancelled again, but the processes must end first

    def note_progress(self, step: str, fraction: float, message: str) -> bool:
        """Take progress of a step; return False when it is not running."""
        state = self._reporter.run.step(step)
        if state.status is not StepStatus.RUNNING:
            return False
        # 100 means that the step is done
        progress = max(state.progress, min(percent(fraction), 99))
        if (progress, message) != (state.progress, state.message):
            self._reporter.note_step(
                msgspec.structs.replace(state, progress=progress, message=message or state.message)
            )
        return True

    def _start_ready(self, failed: list[str]) -> bool:
        """Start all steps that can start, none after a failure; return False when none is running."""
        run = self._reporter.run
        done = {step.name for step in run.steps if step.status is StepStatus.DONE}
        started = {step.name for step in self._tasks.values()}
        for step in self._facts.pipeline.steps:
            if failed or len(self._tasks) >= self._facts.limits.steps:
                break
            if step.name not in done | started and done.issuperset(step.needs or ()):
                self._tasks[asyncio.create_task(self._step(step))] = step
        return bool(self._tasks)

    async def _step(self, step: Step) -> bool:
        """Run one step until it is done or its attempts are used up."""
        for attempt in range(1, step.retries + 2):
            state = self._reporter.run.step(step.name)
            begun = StepState(
                step.name,
                state.title,
                state.weight,
                state.needs,
                state.attempts,
                StepStatus.RUNNING,
                attempt=attempt,
                message="" if attempt == 1 else f"attempt {attempt} of {step.retries + 1}",
            )
            self._reporter.note_step(begun)
            ended, problem = await self._attempt(step, attempt)
            if not problem:
                await self._note_end(step, StepStatus.DONE, ended, "")
                return True
            if attempt <= step.retries:
                await self._pause(step, attempt, problem)
        await self._note_end(step, StepStatus.FAILED, ended, problem)
        return False

    async def _pause(self, step: Step, attempt: int, problem: str) -> None:
        """Wait before the next attempt, and report that."""
        seconds = min(step.retry_seconds * 2 ** (attempt - 1), _LONGEST_PAUSE)
        message = f"attempt {attempt} of {step.retries + 1} failed: {problem}; trying again in {seconds:g} s"
        state = self._reporter.run.step(step.name)
        self._reporter.note_step(msgspec.structs.replace(state, message=message[:_MESSAGE]))
        await asyncio.sleep(seconds)

    async def _note_end(self, step: Step, status: StepStatus, ended: Ended, problem: str) -> None:
        state = self._reporter.run.step(step.name)
        is_done = status is StepStatus.DONE
        if ended.left_out:
            self._count("log_bytes")
        self._reporter.note_step(
            msgspec.structs.replace(
                state,
                status=status,
                progress=100 if is_done else state.progress,
                exit_code=ended.exit,
                error=problem,
                lines=() if is_done else ended.lines,
            )
        )
        await self._reporter.save(sync=True)

    async def _attempt(self, step: Step, attempt: int) -> tuple[Ended, str]:
        """Return how an attempt ended, and why it failed ("" when it succeeded)."""
        try:
            ended = await run_attempt(self._facts, step, attempt, self._listener(step), self._guards)
        except BadStart as error:
            return Ended(), str(error)
        except OSError as error:
            return Ended(), f"it cannot be started: {error.strerror or error}"
        finally:
            await self._forget_processes(step)
        return ended, explain(step, ended)

    def _listener(self, step: Step) -> Listener:
        async def started(identities: list[str]) -> None:
            try:
                await self._store.set_processes(self._facts.id, step.name, identities)
            except StoreUnavailable as error:
                logger.warning("a process of run %s cannot be recorded: %s", self._facts.id, error)

        def progress(fraction: float, message: str) -> None:
            self.note_progress(step.name, fraction, message)

        def log(start: int, end: int, text: str) -> None:
            self._reporter.note_log(step.name, start, end, text)

        return Listener(started, progress, log, self._is_closing)

    async def _forget_processes(self, step: Step) -> None:
        try:
            await self._store.clear_processes(self._facts.id, step.name)
        except StoreUnavailable as error:
            logger.warning("ended processes of run %s are still recorded: %s", self._facts.id, error)
