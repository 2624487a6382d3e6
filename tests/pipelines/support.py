"""Pipelines on a hub in this process, with programs of the test's own."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tidewire import Hub
from tidewire.pipelines import Pipeline, PipelineLimits, Pipelines, Run, Step
from tidewire.pipelines.processes import descendants

__all__ = (
    "at_work",
    "below",
    "events",
    "exists",
    "finished",
    "opened",
    "parent",
    "program",
    "programs",
    "until",
    "while_blocked",
)


def program(text: str, *arguments: str) -> tuple[str, ...]:
    """Return the command of a Python program; isolated, so that it starts fast."""
    return (sys.executable, "-I", "-S", "-c", text.replace("{", "{{").replace("}", "}}"), *arguments)


#: What ran below this process before its pipelines were opened: servers of other tests.
_others: set[int] = set()


@asynccontextmanager
async def opened(
    folder: Path, *definitions: Pipeline, inputs: Path | None = None, **limits: Any
) -> AsyncIterator[Pipelines]:
    _others.clear()
    _others.update(descendants(os.getpid()))
    async with (
        Hub("memory://") as hub,
        Pipelines(hub, folder / "runs", definitions, inputs=inputs, limits=PipelineLimits(**limits)) as pipelines,
    ):
        yield pipelines


async def finished(pipelines: Pipelines, *steps: Step, sample: str = "S1", seconds: float = 40.0) -> Run:
    """Run steps as a pipeline of one run, to its end."""
    definition = Pipeline("test", steps)
    pipelines.definitions["test"] = definition
    started = await pipelines.start("test", sample)
    async with asyncio.timeout(seconds):
        return await pipelines.wait(started.run.id)


async def events(pipelines: Pipelines, run: str) -> list[dict[str, Any]]:
    """Return all that viewers were told of a run."""
    page = await pipelines.hub.history(f"$pipeline:{run}")
    return [msgspec.json.decode(publication.data) for publication in page.publications]


def below(pid: int) -> list[int]:
    """Return the processes below one that its pipelines have started."""
    return [found for found in descendants(pid) if found not in _others]


def at_work(pid: int) -> list[int]:
    """Return the processes below one but a guard that waits for the next step."""
    return [found for found in below(pid) if not _is_guard(found) or descendants(found)]


def programs(pid: int) -> list[int]:
    """Return the processes below one that are no guards."""
    return [found for found in below(pid) if not _is_guard(found)]


def parent(pid: int) -> int:
    """Return the process that a process was started by."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def _is_guard(pid: int) -> bool:
    return b"tidewire.pipelines.program_guard" in _command_line(pid)


def _command_line(pid: int) -> bytes:
    """Return a process's command line, empty for one that has ended; one being started has none yet."""
    end = time.monotonic() + 10.0
    try:
        while not (line := Path(f"/proc/{pid}/cmdline").read_bytes()):
            if _state(pid) in b"ZX":
                return b""
            assert time.monotonic() < end, f"process {pid} has no command line"
            time.sleep(0.001)
    except OSError:
        return b""
    return line


def _state(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]


def exists(pid: int) -> bool:
    """Say whether a process is there, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


async def until(condition: Callable[[], Any], *, what: str, seconds: float = 20.0) -> Any:
    """Return the condition's first true value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)
    return value


def while_blocked(condition: Callable[[], Any], *, seconds: float = 10.0) -> None:
    """Wait without letting the event loop run."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come"
        time.sleep(0.01)
