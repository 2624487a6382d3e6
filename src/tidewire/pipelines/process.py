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
from tidewire.pipelines.processes import end_identity, identity

__all__ = ("Ended", "Listener", "Program", "run_program")

#: Seconds beyond the program's grace after which its guard is killed.
_GUARD_SECONDS = 10.0


class Program(msgspec.Struct, frozen=True):
    """A program with everything that its guard needs to run it. `timeout` 0 means none."""

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
    assert guard.stdout is not None
    guard.stdin.write(msgspec.json.encode(program) + b"\n")
    ended: Ended | None = None
    known: list[str] = []
    async for line in guard.stdout:
        report = _decode(line)
        if report.started is not None:
            known = [name for name in (identity(guard.pid), report.started[1]) if name]
            await listener.started(known)
        if report.progress is not None:
            listener.progress(*report.progress)
        if report.log is not None:
            listener.log(*report.log)
        ended = report.ended or ended
    await guard.wait()
    guard.stdin.close()
    if ended is None:
        for name in known:
            await asyncio.to_thread(end_identity, name, seconds=0.0)
        ended = Ended(reason="guard", error="the process that watched it was killed")
    return ended


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


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what is the server's own, with more."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("TIDEWIRE_")}
    return kept | more


def as_table(rule: Any, path: str) -> dict[str, str | int]:
    """Return a progress rule in the form that the guard reads; `path` is that of the input it names."""
    table = {name: getattr(rule, name) for name in ("pattern", "lines", "bytes") if getattr(rule, name)}
    return table | ({"path": path} if rule.input else {})
