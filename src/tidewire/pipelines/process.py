"""One program of a step as the server sees it: a guard process starts it, reads its output and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tidewire.pipelines.guard_pool import Guards
from tidewire.pipelines.processes import end_identity, end_marked, identity

__all__ = ("Ended", "Listener", "Program", "run_program")

#: Seconds beyond the program's grace after which its guard is killed.
_GUARD_SECONDS = 10.0
#: Seconds for the last reports of a guard that has ended.
_REPORTS_SECONDS = 5.0
#: The variables by which the processes of a step are recognised.
MARKS = ("TIDEWIRE_RUN", "TIDEWIRE_STEP")


class Program(msgspec.Struct, frozen=True):
    """A program with everything that its guard needs to run it. `timeout` and `memory` 0 mean no limit."""

    program: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    heading: str
    log_bytes: int
    log_rate: float
    progress: dict[str, str | int]
    stdin: str = ""
    stdout: str = ""
    timeout: float = 0.0
    grace: float = 5.0
    nice: int = 0
    memory: int = 0


class Ended(msgspec.Struct, frozen=True):
    """How a program ended. `reason` is "" when it ended by itself; `error` explains more than the exit code."""

    exit: int | None = None
    reason: str = ""
    error: str = ""
    lines: tuple[str, ...] = ()
    left_out: int = 0


class _Report(msgspec.Struct, frozen=True):
    started: tuple[int, str] | None = None
    progress: tuple[float, str] | None = None
    log: tuple[int, int, str] | None = None
    ended: Ended | None = None


class Listener(msgspec.Struct, frozen=True):
    """Callbacks on the event loop: identities of processes, progress with a message, and new text of the log.

    `is_closing` returns whether this process is shutting down, so that a cancelled program gets less time.
    """

    started: Callable[[list[str]], Awaitable[None]]
    progress: Callable[[float, str], None]
    log: Callable[[int, int, str], None]
    is_closing: Callable[[], bool] = bool


_decode = msgspec.json.Decoder(_Report).decode


async def run_program(program: Program, listener: Listener, guards: Guards) -> Ended:
    """Run a program to its end. When this is cancelled or fails, the program and its descendants are ended first.

    Raises OSError when the guard cannot be started.
    """
    guard = await guards.take()
    watching = asyncio.create_task(_watch(guard, program, listener))
    try:
        return await asyncio.shield(watching)
    except BaseException:
        await _stop(guard, watching, program.grace, hurry=listener.is_closing() or watching.done())
        raise


async def _watch(guard: Process, program: Program, listener: Listener) -> Ended:
    assert guard.stdin is not None
    guard.stdin.write(msgspec.json.encode(program) + b"\n")
    reports = _Reports(guard, listener)
    reading, ending = tasks = [asyncio.create_task(reports.read()), asyncio.create_task(_ended(guard))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            # its reports end with it, even while another process has a copy of the pipe open
            await asyncio.wait([reading], timeout=_REPORTS_SECONDS)
        if reading.done():
            reading.result()
            await ending
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    guard.stdin.close()
    if reports.ended is not None:
        return reports.ended
    for name in reports.known:
        await asyncio.to_thread(end_identity, name, seconds=0.0)
    env = program.env
    await asyncio.to_thread(end_marked, {name: env[name] for name in MARKS if name in env})
    return Ended(reason="guard", error="the process that watched it was killed")


async def _ended(guard: Process) -> None:
    await guard.wait()


class _Reports:
    """The reports of a guard; `known` are the identities of its processes, `ended` its last report."""

    def __init__(self, guard: Process, listener: Listener) -> None:
        self.known: list[str] = []
        self.ended: Ended | None = None
        self._guard = guard
        self._listener = listener

    async def read(self) -> None:
        """Read until the guard has closed its pipe."""
        assert self._guard.stdout is not None
        listener = self._listener
        async for line in self._guard.stdout:
            report = _decode(line)
            if report.started is not None:
                self.known = [name for name in (identity(self._guard.pid), report.started[1]) if name]
                await listener.started(self.known)
            if report.progress is not None:
                listener.progress(*report.progress)
            if report.log is not None:
                listener.log(*report.log)
            self.ended = report.ended or self.ended


async def _stop(guard: Process, watching: asyncio.Task[Ended], grace: float, *, hurry: bool) -> None:
    """End the program and wait for it, even when this is cancelled again."""
    assert guard.stdin is not None
    with contextlib.suppress(OSError):
        if hurry:
            guard.stdin.close()  # the guard then acts as if this process had died
        else:
            guard.stdin.write(b"stop\n")
    deadline = asyncio.get_running_loop().time() + grace + _GUARD_SECONDS
    ending = [watching, asyncio.create_task(guard.wait())]
    while waiting := [task for task in ending if not task.done()]:
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(waiting, timeout=max(left, 0.5))


def as_table(rule: Any, path: str) -> dict[str, str | int]:
    """Return a progress rule in the form that the guard reads; `path` is that of the input it names."""
    table = {name: getattr(rule, name) for name in ("pattern", "lines", "bytes") if getattr(rule, name)}
    return table | ({"path": path} if rule.input else {})
