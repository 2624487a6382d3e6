"""How fast `postgresql://` keeps publications: `python bench/postgres_publish.py [--channels 1]`.

100 tasks publish 128 bytes for some seconds to a server that this starts, beside the transactions per second that
pgbench gets from the same server when each inserts one row of the same size: from one client, and from 32. Both take
turns, so that what else this machine does falls on both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from tidewire.backends import open_backend
from tidewire.messages import PublishRequest
from tidewire.options import Limits

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.stores import Postgres, start_postgres

TASKS, SIZE, ROUNDS = 100, 128, 3
INSERT = f"INSERT INTO single (data) VALUES (decode(repeat('78', {SIZE}), 'hex'));\n"


def own_limit(server: Postgres, clients: int, seconds: int) -> float:
    """Return the single commits per second of pgbench."""
    command = [str(server.programs / "pgbench"), "-n", "-M", "prepared", "-f", "-", "-c", str(clients)]
    command += ["-j", str(min(clients, 2)), "-T", str(seconds), "-d", server.url()]
    done = subprocess.run(command, input=INSERT, capture_output=True, text=True, timeout=30, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


async def publish(url: str, channels: int, seconds: float) -> tuple[list[float], float]:
    """Publish from all tasks; return the waits and the time."""
    broker, _ = open_backend(url, Limits())
    await broker.start(lambda _: None)
    for number in range(channels):
        await broker.subscribe(f"bench:{number}")
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


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=1, help="over how many channels the tasks are spread")
    options = parser.parse_args()
    waits: list[float] = []
    rates, singles = [], []
    with start_postgres("max_wal_size=1GB") as server:
        server.sql("CREATE TABLE single (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea)")
        for _ in range(ROUNDS):
            singles.append(own_limit(server, 1, 2))
            part, passed = uvloop.run(publish(server.url(), options.channels, 2.0))
            rates.append(len(part) / passed)
            waits += part
        many = own_limit(server, 32, 2)
    waits.sort()
    rate, single = statistics.median(rates), statistics.median(singles)
    print(
        f"{TASKS} tasks on {options.channels} channels: {rate:,.0f} publishes/s, wait p50 "
        f"{waits[len(waits) // 2] * 1e3:.1f} ms, p99 {waits[len(waits) * 99 // 100] * 1e3:.1f} ms"
    )
    print(f"pgbench, one row for each commit: {single:,.0f}/s from one client, {many:,.0f}/s from 32")
    each = ", ".join(f"{ours / theirs:.1f}" for ours, theirs in zip(rates, singles, strict=True))
    print(f"that is {rate / single:.1f} publishes for each commit of one client (round by round: {each})")


if __name__ == "__main__":
    main()
