"""Processes that are killed or stopped at any moment, while the log moves all the time and an operator looks on.

Nothing that was acknowledged is lost, and no epoch begins: a judgement of damage has to be one that no crash produces.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tidewire.backends.sqlite import SqliteBroker, checkpoint, database, disk_reserve, file_check
from tidewire.errors import PublishError
from tidewire.limits import Limits
from tidewire.messages import PublishRequest
from tidewire.retention import Retention

CHANNELS, TASKS = 4, 6
KEEP = Retention(1_000_000, 1_000_000.0)


def make_small(limit: int) -> None:
    """Let the log move, begin anew and be cut all the time, and a judgement come soon."""
    disk_reserve._SIZE = limit
    checkpoint._INTERVAL = 0.01
    file_check._SETTLE = 0.1
    file_check.LOG_BYTES = database.LOG_BYTES = limit


async def publish_until_killed(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    broker = SqliteBroker(path, Limits())
    await broker.start(lambda publications: None)

    async def publish(task: int) -> None:
        number = 0
        while True:
            number += 1
            channel = f"c{rng.randrange(CHANNELS)}"
            data = f"{os.getpid()}/{task}/{number}/".ljust(rng.choice((30, 500, 9_000)), "x")
            with contextlib.suppress(PublishError):
                top = await broker.publish(PublishRequest(channel, data.encode(), retention=KEEP))
                os.write(1, f"{json.dumps([channel, top.epoch, top.offset, data[:30]])}\n".encode())

    await asyncio.gather(*[publish(task) for task in range(TASKS)])


def statement(text: str) -> Callable[[Path], None]:
    """Return what an operator's program does, in a process of its own."""

    def operate(path: Path) -> None:
        with closing(sqlite3.connect(path, timeout=2)) as connection, contextlib.suppress(sqlite3.OperationalError):
            connection.execute(text).fetchall()

    return operate


def back_up(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=2)) as source, closing(sqlite3.connect(f"{path}-backup")) as target:
        source.backup(target)


OPERATIONS = [
    statement("SELECT count(*) FROM tidewire_publications"),
    statement("PRAGMA wal_checkpoint(TRUNCATE)"),
    statement("PRAGMA wal_checkpoint(RESTART)"),
    statement("VACUUM"),
    statement("CREATE TABLE IF NOT EXISTS orders AS SELECT zeroblob(20000) AS room"),
    back_up,
]


def forked(work: Callable[[], object], output: int | None = None) -> int:
    """Do something in a process of its own, which has read its modules already; return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if output is not None:
            os.dup2(output, 1)
        work()
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
    finally:
        os._exit(0)


class Storm:
    """Rounds on one file; `acknowledged` has what every process was told, over all rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._path = folder / "chat.db"
        self._rng = random.Random(seed)
        self._acknowledged: dict[tuple[str, str, int], str] = {}
        self._living: list[tuple[int, Path]] = []
        self._count = 0

    def round(self) -> int:
        """Write, kill, stop and operate once somebody was told; return how much was acknowledged, after the check."""
        rng = self._rng
        for _ in range(rng.choice((1, 2, 3))):
            self._start()
        limit = time.monotonic() + 10
        while not self._living[0][1].stat().st_size and time.monotonic() < limit:
            time.sleep(0.005)
        operators = []
        until = time.monotonic() + rng.uniform(0.05, 0.3)
        latest = until + 0.4
        while time.monotonic() < until:
            time.sleep(rng.uniform(0.005, 0.06))
            match rng.randrange(5):
                case 0:
                    self._kill(rng.randrange(len(self._living)))
                    self._start()
                case 1:
                    os.kill(rng.choice(self._living)[0], signal.SIGSTOP)
                    until = min(latest, until + rng.choice((0.0, 0.15, 0.3)))
                case 2:
                    for pid, _ in self._living:
                        os.kill(pid, signal.SIGCONT)
                case 3:
                    operation = rng.choice(OPERATIONS)
                    operators.append(forked(lambda operation=operation: operation(self._path)))
        while self._living:
            self._kill(rng.randrange(len(self._living)))
        for pid in operators:
            if rng.random() < 0.5:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._check()
        return len(self._acknowledged)

    def end(self) -> None:
        """Kill what is left after a failure."""
        for pid, _ in self._living:
            os.kill(pid, signal.SIGKILL)

    def _start(self) -> None:
        self._count += 1
        output = self._path.with_name(f"told-{self._count}")
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        seed = self._rng.randrange(2**32)
        pid = forked(lambda: asyncio.run(publish_until_killed(self._path, seed)), descriptor)
        os.close(descriptor)
        self._living.append((pid, output))

    def _kill(self, index: int) -> None:
        pid, output = self._living.pop(index)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for line in output.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(told := json.loads(line), list):
                    channel, epoch, offset, data = told
                    assert (channel, epoch, offset) not in self._acknowledged, "it was given twice"
                    self._acknowledged[channel, epoch, offset] = data
        output.unlink()

    def _check(self) -> None:
        """Look at a copy, so that the next round finds what the kills have left."""
        names = [path.name for path in self._path.parent.iterdir()]
        assert not [name for name in names if "damaged" in name], names
        copy, output = self._path.with_name("copy.db"), self._path.with_name("read")
        for end in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{self._path}{end}", f"{copy}{end}")
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.waitpid(forked(lambda: read(copy), descriptor), 0)
        os.close(descriptor)
        found, rows = json.loads(output.read_bytes())
        for path in self._path.parent.glob("copy.db*"):
            path.unlink()
        assert found == "ok"
        kept = {(channel, epoch, offset): data for channel, epoch, offset, data in rows}
        lost = {at: data for at, data in self._acknowledged.items() if kept.get(at) != data}
        assert not lost, f"{len(lost)} of {len(self._acknowledged)} are lost: {list(lost.items())[:3]}"
        tops: dict[str, int] = {}
        for channel, _, offset, _ in rows:
            assert offset == tops.get(channel, 0) + 1, f"{channel} goes on with {offset}"
            tops[channel] = offset


READ = """
SELECT name, epoch, "offset", substr(CAST(data AS TEXT), 1, 30) FROM tidewire_publications
JOIN tidewire_channels ON tidewire_channels.id = channel ORDER BY tidewire_publications.id
"""


def read(path: Path) -> None:
    """Write the state of a file and its rows."""
    with closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        there = connection.execute("SELECT name FROM sqlite_master WHERE name = 'tidewire_channels'").fetchall()
        text = json.dumps([found, connection.execute(READ).fetchall() if there else []])
    with os.fdopen(1, "w") as output:
        output.write(text)


def storm(folder: Path, seed: int, rounds: int) -> None:
    """Run some rounds on one file, with the limits of this seed, in a process that has no threads when it forks."""
    command = [sys.executable, __file__, str(folder), str(seed), str(rounds)]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=10 + 5 * rounds)
    assert result.returncode == 0, f"seed {seed}: {result.stderr}"


def test_no_kill_loses_what_was_acknowledged(tmp_path: Path) -> None:
    storm(tmp_path, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_no_storm_loses_what_was_acknowledged(tmp_path: Path, seed: int) -> None:
    storm(tmp_path, seed, 50)


def main(folder: str, seed: str, rounds: str) -> None:
    make_small(random.Random(int(seed)).choice((32_768, 65_536, 262_144)))
    one = Storm(Path(folder), int(seed))
    try:
        for _ in range(int(rounds)):
            told = one.round()
        assert told
    finally:
        one.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
