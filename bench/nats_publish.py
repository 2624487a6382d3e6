"""How fast `nats://` keeps publications: `python bench/nats_publish.py [--channels 1]`.

100 tasks publish 128 bytes for some seconds to a server that this starts, each waiting for its acknowledgement; beside
what the same server acknowledges of the same messages sent by nats-py's own JetStream client, from as many tasks, and,
where the `nats` tool is installed, what its `nats bench` gets.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nats
import uvloop
from nats.js.api import StreamConfig

from tidewire.backends.nats import NatsAddress, NatsBroker
from tidewire.messages import PublishRequest
from tidewire.options import Limits

TASKS, SIZE = 100, 128
PAYLOAD = b"x" * SIZE


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Run a nats-server with JetStream on a free port."""
    program = shutil.which("nats-server")
    if program is None:
        sys.exit("nats-server is needed: apt-get install nats-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [program, "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def measure(publish: Callable[[int], Awaitable[object]], seconds: float) -> tuple[list[float], float]:
    """Publish from all tasks; return the waits and the time."""
    waits: list[float] = []
    start = time.perf_counter()

    async def run(number: int) -> None:
        now = time.perf_counter()
        while now < start + seconds:
            await publish(number)
            done = time.perf_counter()
            waits.append(done - now)
            now = done

    await asyncio.gather(*(run(number) for number in range(TASKS)))
    return waits, time.perf_counter() - start


async def ours(port: int, channels: int, seconds: float) -> tuple[list[float], float]:
    """Measure the broker, which also carries the first channel to itself."""
    broker = NatsBroker(NatsAddress.from_url(f"nats://127.0.0.1:{port}"), Limits())
    await broker.start(lambda _: None)
    await broker.subscribe("bench:0")
    names = [f"bench:{number % channels}" for number in range(TASKS)]
    measured = await measure(lambda number: broker.publish(PublishRequest(names[number], PAYLOAD)), seconds)
    await broker.aclose()
    return measured


async def theirs(port: int, channels: int, seconds: float) -> tuple[list[float], float]:
    """Measure the driver's own client on a stream without anything else."""
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = client.jetstream()
    await stream.add_stream(StreamConfig(name="LIMIT", subjects=["limit.*"]))
    names = [f"limit.{number % channels}" for number in range(TASKS)]
    measured = await measure(lambda number: stream.publish(names[number], PAYLOAD), seconds)
    await client.close()
    return measured


def own_tool(port: int) -> str:
    """Return what the store's own benchmark tool says, or that it is not there."""
    program = shutil.which("nats")
    if program is None:
        return "nats bench: the `nats` tool is not installed (Debian has no package of it)"
    command = [program, "-s", f"nats://127.0.0.1:{port}", "bench", "limit.tool", "--js", "--stream", "LIMIT"]
    command += ["--pub", "1", "--msgs", "50000", "--size", str(SIZE), "--pubbatch", str(TASKS), "--no-progress"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return next((line for line in done.stdout.splitlines() if "msgs/sec" in line), f"nats bench failed: {done.stderr}")


def report(name: str, waits: Sequence[float], passed: float) -> float:
    """Print one line of figures, and return the rate."""
    ordered, rate = sorted(waits), len(waits) / passed
    p50, p99 = (ordered[int(len(ordered) * part)] * 1e3 for part in (0.5, 0.99))
    print(f"{name}: {rate:,.0f} acknowledged publishes/s, wait p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
    return rate


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=1, help="over how many channels the tasks are spread")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each of the two publishes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as port:
        time.sleep(0.7)
        what = f"{TASKS} tasks, {options.channels} channels"
        rate = report(f"tidewire, {what}", *uvloop.run(ours(port, options.channels, options.seconds)))
        limit = report(f"nats-py alone, {what}", *uvloop.run(theirs(port, options.channels, options.seconds)))
        print(f"that is {rate / limit:.2f} of it")
        print(own_tool(port))


if __name__ == "__main__":
    main()
