"""Acknowledged publishes per second of one node from 100 tasks, beside what each store's own tool gets from it."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

from tidewire.backends import open_backend
from tidewire.limits import Limits
from tidewire.messages import PublishRequest

__all__ = ("Rates", "measure")

TASKS, SIZE, SECONDS, ROUNDS = 100, 128, 3.0, 3
PAYLOAD = b"x" * SIZE
_INSERT = f"INSERT INTO bench_single (data) VALUES (decode(repeat('78', {SIZE}), 'hex'));\n"


class Rates(msgspec.Struct, frozen=True):
    """Per second: ours in one channel and in 100, and the store's own limit, with what that is."""

    one_channel: float
    many_channels: float
    limit: float
    what: str


async def _rate(publish: Callable[[int], Awaitable[object]]) -> float:
    count, start = 0, time.perf_counter()
    end = start + SECONDS

    async def run(number: int) -> None:
        nonlocal count
        while time.perf_counter() < end:
            await publish(number)
            count += 1

    await asyncio.gather(*(run(number) for number in range(TASKS)))
    return count / (time.perf_counter() - start)


async def ours(url: str, channels: int) -> float:
    """Publish in so many channels; the first is carried to this node, too."""
    broker, _ = open_backend(url, Limits())
    await broker.start(lambda _: None)
    await broker.subscribe("bench:0")
    names = [f"bench:{number % channels}" for number in range(TASKS)]
    try:
        return await _rate(lambda number: broker.publish(PublishRequest(names[number], PAYLOAD)))
    finally:
        await broker.aclose()


def redis_benchmark(url: str) -> float:
    """Return what redis-benchmark gets with XADD, each answered before the next, from as many clients."""
    port = str(urlsplit(url).port)
    command = ["redis-benchmark", "-p", port, "-n", "100000", "-c", str(TASKS), "--csv"]
    command += ["XADD", "limit", "*", "t", "1", "b", PAYLOAD.decode()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return float(done.stdout.strip().splitlines()[-1].split('","')[1])


def pgbench(url: str) -> float:
    """Return the single commits per second that pgbench gets from one client."""
    program = str(sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))[-1])
    psql = [str(Path(program).parent / "psql"), "-qX", "-d", url, "-c"]
    table = "CREATE TABLE IF NOT EXISTS bench_single (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea)"
    subprocess.run([*psql, table], check=True, capture_output=True, timeout=20)
    command = [program, "-n", "-M", "prepared", "-f", "-", "-c", "1", "-T", "3", "-d", url]
    done = subprocess.run(command, input=_INSERT, capture_output=True, text=True, timeout=30, check=True)
    return float(next(line for line in done.stdout.splitlines() if line.startswith("tps")).split()[2])


def nats_alone(url: str) -> float:
    """Return what nats-py's own JetStream client gets (Debian has no package of the `nats` tool)."""
    import nats
    from nats.js.api import StreamConfig

    async def main() -> float:
        client = await nats.connect(url)
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name="BENCH_LIMIT", subjects=["bench.limit"]))
        try:
            return await _rate(lambda number: stream.publish("bench.limit", PAYLOAD))
        finally:
            await stream.delete_stream("BENCH_LIMIT")
            await client.close()

    return uvloop.run(main())


def fsyncs(url: str) -> float:
    """Return the single fsyncs per second of the same disk."""
    from bench.sqlite_publish import fsyncs_per_second

    return fsyncs_per_second(Path(urlsplit(url).path).parent)


_LIMITS: dict[str, tuple[Callable[[str], float], str]] = {
    "sqlite": (fsyncs, "single fsyncs"),
    "redis": (redis_benchmark, "redis-benchmark XADD, 100 clients"),
    "postgresql": (pgbench, "pgbench, single commits of one client"),
    "nats": (nats_alone, "nats-py alone, 100 tasks"),
}


def measure(url: str) -> Rates:
    """Measure ours and the store's own in turns, and return the medians."""
    limit_of, what = _LIMITS[urlsplit(url).scheme]
    one, limits = [], []
    for _ in range(ROUNDS):
        limits.append(limit_of(url))
        one.append(uvloop.run(ours(url, 1)))
    many = uvloop.run(ours(url, 100))
    return Rates(sorted(one)[ROUNDS // 2], many, sorted(limits)[ROUNDS // 2], what)
