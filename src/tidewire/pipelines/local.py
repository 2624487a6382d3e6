"""Runs a coroutine function as a step, on the event loop of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tidewire.pipelines.errors import StepFailed
from tidewire.pipelines.job import Job, JobFacts
from tidewire.pipelines.output import BoundedLog
from tidewire.pipelines.process import Ended, Listener

__all__ = ("run_function",)

logger = logging.getLogger("tidewire.pipelines")

_PACE = 0.1


class _Log:
    """Lines of a function, written into its log by a thread, ten times a second."""

    def __init__(self, log: BoundedLog, listener: Listener) -> None:
        self._log = log
        self._listener = listener
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        self._lines.append(text)

    async def write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            data = ("\n".join(lines) + "\n").encode(errors="replace")
            await asyncio.to_thread(self._log.write, data, time.monotonic())
            news = self._log.news()
            if news is not None:
                self._listener.log(*news)

    async def write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PACE)
            await self.write()


async def run_function(
    function: Callable[[Job], Awaitable[object]],
    facts: JobFacts,
    listener: Listener,
    *,
    log: Path,
    log_bytes: int,
    log_rate: float,
    timeout: float | None,
) -> Ended:
    """Run a coroutine function to its end; a failure is told in what is returned. Raises OSError for its log."""
    loop = asyncio.get_running_loop()
    bounded = await asyncio.to_thread(BoundedLog, str(log), limit=log_bytes, rate=log_rate, now=time.monotonic())
    lines = _Log(bounded, listener)

    def say(fraction: float, message: str) -> None:
        loop.call_soon_threadsafe(listener.progress, fraction, message)

    job = Job(facts, say, lines.add)
    bounded.note(f"attempt {facts.attempt}")
    writing = asyncio.create_task(lines.write_for_ever())
    try:
        ended = await _call(function, job, timeout, lines)
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        await lines.write()
        bounded.close()
    return Ended(ended.exit, ended.reason, ended.error, tuple(bounded.last_lines()), bounded.left_out)


async def _call(function: Callable[[Job], Awaitable[object]], job: Job, timeout: float | None, lines: _Log) -> Ended:
    try:
        async with asyncio.timeout(timeout) as limit:
            await function(job)
    except StepFailed as error:
        return Ended(1, error=str(error))
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            return Ended(1, "timeout")
        logger.exception("step %s of run %s raised", job.step, job.run)
        lines.add(traceback.format_exc())
        return Ended(1, error=f"{type(error).__name__}: {error}")
    return Ended(0)
