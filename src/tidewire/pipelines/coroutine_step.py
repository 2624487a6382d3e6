"""Runs a coroutine function as a step, on this process's event loop."""

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
from tidewire.pipelines.output import BoundedLog, unwritable
from tidewire.pipelines.process import Ended, Listener

__all__ = ("run_function",)

logger = logging.getLogger("tidewire.pipelines")

_PACE = 0.1


class _Log:
    """Writes the lines of a function into its log ten times a second. Its task owns the log and closes it."""

    def __init__(self, log: BoundedLog, listener: Listener) -> None:
        self.log = log
        self._listener = listener
        self._lines: list[str] = []
        self._is_over = asyncio.Event()
        #: The function's timeout, while it runs.
        self.limit: asyncio.Timeout | None = None
        #: Why the log cannot be written.
        self.problem = ""
        self._writing = asyncio.create_task(self._write_all())

    def add(self, text: str) -> None:
        if not self.problem:
            self._lines.append(text)

    async def aclose(self) -> None:
        """Write the remaining lines, and close the log."""
        self._is_over.set()
        await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        try:
            while not self._is_over.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PACE):
                        await self._is_over.wait()
                await self._write()
            await self._write()  # lines that came during the last write
        except OSError as error:
            self._fail(error)
        finally:
            try:
                self.log.close()
            except OSError as error:
                self._fail(error)

    async def _write(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            data = ("\n".join(lines) + "\n").encode(errors="replace")
            await asyncio.to_thread(self.log.write, data, time.monotonic())
            news = self.log.news()
            if news is not None:
                self._listener.log(*news)

    def _fail(self, error: OSError) -> None:
        """End the function, because its log cannot be written any more."""
        self.problem = unwritable(error)
        self._lines.clear()
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time())


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
    """Run a coroutine function to its end and return how it ended. Raises OSError when its log cannot be opened."""
    loop = asyncio.get_running_loop()
    bounded = await asyncio.to_thread(BoundedLog, str(log), limit=log_bytes, rate=log_rate, now=time.monotonic())
    lines = _Log(bounded, listener)

    def say(fraction: float, message: str) -> None:
        loop.call_soon_threadsafe(listener.progress, fraction, message)

    job = Job(facts, say, lines.add)
    try:
        bounded.note(f"attempt {facts.attempt}")
        ended = await _call(function, job, timeout, lines)
    finally:
        await lines.aclose()
    if lines.problem:
        ended = Ended(1, "disk", lines.problem)
    return Ended(ended.exit, ended.reason, ended.error, tuple(bounded.last_lines()), bounded.left_out)


async def _call(function: Callable[[Job], Awaitable[object]], job: Job, timeout: float | None, lines: _Log) -> Ended:
    try:
        async with asyncio.timeout(timeout) as limit:
            lines.limit = limit
            try:
                await function(job)
            finally:
                lines.limit = None
    except StepFailed as error:
        return Ended(1, error=str(error))
    except Exception as error:
        if isinstance(error, TimeoutError) and limit.expired():
            return Ended(1, "timeout")
        logger.exception("step %s of run %s raised", job.step, job.run)
        lines.add(traceback.format_exc())
        return Ended(1, error=f"{type(error).__name__}: {error}")
    return Ended(0)
