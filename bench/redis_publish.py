"""How fast `redis://` keeps publications: `python bench/redis_publish.py [--channels 1]`.

100 tasks publish 128 bytes for some seconds to a server that this starts, beside what redis-benchmark gets from the
same server with XADD: one at a time from 100 clients, and 100 in a pipeline.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from tidewire.backends.redis import open_redis
from tidewire.messages import PublishRequest
from tidewire.options import Limits

TASKS, SIZE = 100, 128


@contextmanager
def server(folder: Path, fsync: str) -> Iterator[int]:
    """Run a redis-server on a free port."""
    program = shutil.which("redis-server")
    assert program is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    durable = ["--appendonly", "no"] if fsync == "off" else ["--appendonly", "yes", "--appendfsync", fsync]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *durable]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def own_limit(port: int, pipeline: int) -> float:
    """Return the XADDs per second of redis-benchmark with as many clients as there are tasks."""
    count = 60_000 if pipeline == 1 else 300_000
    command = ["redis-benchmark", "-p", str(port), "-n", str(count), "-c", str(TASKS), "-P", str(pipeline), "--csv"]
    command += ["XADD", "limit", "*", "t", "1", "b", "x" * SIZE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return float(done.stdout.strip().splitlines()[-1].split('","')[1])


async def publish(port: int, channels: int, seconds: float) -> tuple[list[float], float]:
    """Publish from all tasks; return the waits and the time."""
    broker, _ = open_redis(f"redis://127.0.0.1:{port}", Limits())
    await broker.start(lambda _: None)
    waits: list[float] = []
    start = time.perf_counter()

    async def run(number: int) -> None:
        channel = f"bench:{number % channels}"
        now = time.perf_counter()
        while now < start + seconds:
            await broker.publish(PublishRequest(channel, b"x" * SIZE))
            done = time.perf_counter()
            waits.append(done - now)
            now = done

    await asyncio.gather(*(run(number) for number in range(TASKS)))
    passed = time.perf_counter() - start
    await broker.aclose()
    return waits, passed


def percentile(waits: Sequence[float], part: float) -> float:
    """Return a percentile in milliseconds."""
    ordered = sorted(waits)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1e3


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=1, help="over how many channels the tasks are spread")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long they publish")
    parser.add_argument(
        "--fsync", choices=("off", "everysec", "always"), default="off", help="the server's appendfsync"
    )
    options = parser.parse_args()
    if shutil.which("redis-server") is None or shutil.which("redis-benchmark") is None:
        print("redis:// is not measured: apt-get install redis-server redis-tools")
        return
    with tempfile.TemporaryDirectory() as name, server(Path(name), options.fsync) as port:
        time.sleep(0.5)
        waits, passed = uvloop.run(publish(port, options.channels, options.seconds))
        rate = len(waits) / passed
        print(
            f"{TASKS} tasks on {options.channels} channels, appendfsync {options.fsync}: {rate:,.0f} publishes/s, "
            f"wait p50 {percentile(waits, 0.5):.1f} ms, p99 {percentile(waits, 0.99):.1f} ms",
            flush=True,
        )
        single, pipelined = own_limit(port, 1), own_limit(port, 100)
        print(f"redis-benchmark XADD: {single:,.0f}/s one at a time, {pipelined:,.0f}/s with 100 in a pipeline")


if __name__ == "__main__":
    main()
