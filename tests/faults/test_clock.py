"""The wall clock of a server jumps back by an hour and ahead by two days: nothing is lost, reordered or aged by it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.serving import Server
from engine.support import run
from requirements import require

from .crowd import CHANNEL, KEY, Crowd
from .serving import STORES, serving, store
from .test_brokers import undisturbed

HOUR, DAYS = -3_600, 2 * 86_400
#: Python sleeps until a monotonic time, for which faketime 0.9.10 gives the kernel a negative one: every `time.sleep`
#: raises EINVAL (wolfcw/libfaketime#426). `select` is told how long, not until when.
SLEEPING = """
import select, time
time.sleep = lambda seconds: select.select((), (), (), seconds)
"""


class WallClock:
    """What a process and its children take for the wall clock; their monotonic clock goes on as it is."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)
        library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
        require(library, "apt-get install faketime")
        site = file.parent / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(SLEEPING)
        self.environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))),
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # without, every look at a clock is a file read, and the server crawls
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: int) -> None:
        """Let the clock be so far ahead of the true time."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self._file)
        self.ahead = seconds

    def is_ahead(self) -> bool:
        """Say whether a process that is started now is deceived."""
        told = subprocess.run(["date", "+%s"], env=self.environment, capture_output=True, text=True, check=True).stdout
        return abs(int(told) - time.time() - self.ahead) < 5


@contextlib.contextmanager
def jumpy(folder: Path, url: str, **options: object) -> Iterator[tuple[Server, WallClock]]:
    """Run a server whose wall clock the test turns."""
    clock = WallClock(folder / "clock")
    with serving(folder / "run", url, environment=clock.environment, **options) as server:  # type: ignore[arg-type]
        yield server, clock


def test_a_deceived_process_can_sleep(tmp_path: Path) -> None:
    """Workers that start at once wait for each other's locks in small sleeps."""
    environment = {**os.environ, **WallClock(tmp_path / "clock").environment}
    command = [sys.executable, "-c", "import time; time.sleep(0.01)"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(
    "name", ["sqlite", *(pytest.param(n, marks=pytest.mark.slow) for n in STORES if n != "sqlite")]
)
def test_a_jump_of_the_wall_clock_changes_nothing(tmp_path: Path, name: str) -> None:
    with store(name, tmp_path) as used, jumpy(tmp_path, used.url) as (server, clock):

        async def scenario() -> None:
            crowd = Crowd(server, followers=4, chatters=1, has_holes=used.has_holes)
            async with crowd.following(), undisturbed(server, crowd):
                for jump in (HOUR, DAYS, 0):
                    clock.jump(jump)
                    assert clock.is_ahead()
                    await crowd.succeeds(10)
                    await asyncio.sleep(2.5)  # leases are renewed and looked at meanwhile
                    assert len(_history(server)) >= len(crowd.api.kept) - 2, "nothing has become too old"

        run(scenario(), 80)


def _history(server: Server) -> list[object]:
    asked = {"channel": CHANNEL, "limit": 20_000}
    found: list[object] = server.http.post("/api/history", json=asked, headers=KEY).json()["result"]["publications"]
    return found
