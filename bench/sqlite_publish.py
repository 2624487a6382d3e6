"""How fast `sqlite://` keeps publications: `python bench/sqlite_publish.py [--processes 2]`.

One process: 20,000 publishes of 128 bytes from 100 tasks, beside the single fsyncs per second of the same disk.
Several: each publishes from 20 tasks for some seconds, all to one file, and tells how long a publish waited.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tidewire.backends.sqlite import SqliteBroker
from tidewire.limits import Limits
from tidewire.messages import PublishRequest

PUBLISHES, TASKS, SHARED_TASKS, SIZE = 20_000, 100, 20, 128


def fsyncs_per_second(folder: Path, seconds: float = 1.0) -> float:
    """Append small blocks, each with its own fsync, as one commit for each message would."""
    descriptor = os.open(folder / "fsync.probe", os.O_RDWR | os.O_CREAT)
    try:
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
            count += 1
        return count / passed
    finally:
        os.close(descriptor)


def percentile(waits: Sequence[float], part: float) -> float:
    """Return a percentile in milliseconds."""
    ordered = sorted(waits)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1e3


async def publish(path: Path, tasks: int, count: int, seconds: float) -> tuple[list[float], float]:
    """Publish `count` messages from so many tasks, for so many seconds at most; return the waits and the time."""
    broker = SqliteBroker(path, Limits())
    await broker.start(lambda _: None)
    await broker.subscribe("bench")
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def run(share: int) -> None:
        for _ in range(share):
            start = time.perf_counter()
            if start > end:
                return
            await broker.publish(PublishRequest("bench", b"x" * SIZE))
            waits.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(run(count // tasks) for _ in range(tasks)))
    passed = time.perf_counter() - start
    await broker.aclose()
    return waits, passed


def report(name: str, waits: Sequence[float], passed: float) -> float:
    """Print one line of figures, and return the rate."""
    rate = len(waits) / passed
    print(
        f"{name}: {len(waits)} publishes in {passed:.2f} s = {rate:,.0f}/s, "
        f"wait p50 {percentile(waits, 0.5):.1f} ms, p99 {percentile(waits, 0.99):.1f} ms, "
        f"longest {max(waits) * 1e3:.1f} ms",
        flush=True,
    )
    return rate


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1, help="how many publish at once to one file")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long several processes publish")
    parser.add_argument("--folder", type=Path, help="where the file is made (default: a temporary folder here)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        waits, passed = asyncio.run(publish(options.child, SHARED_TASKS, 10**9, options.seconds))
        report(f"process {os.getpid()} with {SHARED_TASKS} tasks", waits, passed)
        return
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as name:
        folder = Path(name)
        single = fsyncs_per_second(folder)
        print(f"single fsyncs: {single:,.0f}/s", flush=True)
        if options.processes == 1:
            rate = report(f"{TASKS} tasks", *asyncio.run(publish(folder / "bench.db", TASKS, PUBLISHES, 25.0)))
            print(f"that is {rate / single:.1f} publishes for each single fsync")
            return
        command = [sys.executable, __file__, "--seconds", str(options.seconds), "--child", str(folder / "bench.db")]
        children = [subprocess.Popen(command) for _ in range(options.processes)]
        for child in children:
            child.wait()


if __name__ == "__main__":
    main()
