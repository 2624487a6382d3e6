"""What several tests of the SQLite store need: clocks to turn by hand, an open broker, a second process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from helpers.processes import WORKER
from tidewire.backends.base import Resumed, nothing_to_resume
from tidewire.backends.sqlite import SqliteBroker
from tidewire.backends.sqlite.store_clock import SystemClock
from tidewire.limits import Limits
from tidewire.testing.contract_store import Node

_WORKER = Path(__file__).with_name("worker.py")


class ManualClock(SystemClock):
    """Clocks that stand still until they are turned."""

    def __init__(self) -> None:
        self.wall_seconds = 1_700_000_000.0
        self.monotonic_seconds = 1_000.0
        self.boot_id = "boot-1"

    def wall(self) -> float:
        return self.wall_seconds

    def monotonic(self) -> float:
        return self.monotonic_seconds

    def boot(self) -> str:
        return self.boot_id

    def pass_time(self, seconds: float) -> None:
        """Let time pass for everybody."""
        self.wall_seconds += seconds
        self.monotonic_seconds += seconds


@asynccontextmanager
async def open_node(
    path: Path, *, clock: SystemClock | None = None, resumed: Resumed = nothing_to_resume, **limits: Any
) -> AsyncIterator[Node]:
    """Open a broker on a file, and close it at the end."""
    broker = SqliteBroker(path, Limits(**limits), clock=clock)
    node = Node(broker)
    await broker.start(node.delivered.extend, resumed)
    try:
        yield node
    finally:
        await broker.aclose()


class WorkerProcess:
    """A second process on the same file, which tells by lines of JSON what it does (worker.py, support/worker.py)."""

    def __init__(self, path: Path, mode: str, **options: Any) -> None:
        where = [str(_WORKER), str(path)] if mode in ("hold", "attend") else [str(WORKER), f"sqlite:///{path}"]
        arguments = [sys.executable, *where, mode, json.dumps(options)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def line(self) -> Any:
        """Return the next line, None at the end."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        return json.loads(text) if text else None

    def lines(self) -> list[Any]:
        """Return all further lines; what a kill cut in the middle is left out."""
        assert self.process.stdout is not None
        found = []
        for text in self.process.stdout:
            try:
                found.append(json.loads(text))
            except ValueError:
                break
        return found

    def end(self) -> int:
        """Kill it if it still runs, and return its exit code."""
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.wait(10)


async def in_thread(call: Any, *arguments: Any) -> Any:
    """Run something that blocks beside the event loop."""
    return await asyncio.to_thread(call, *arguments)
