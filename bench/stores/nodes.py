"""Up to fifty nodes on one store: `python -m bench.stores.nodes URL` prints a line of JSON.

All nodes run in this process, each with connections of its own to the store. Each node has one client in a channel of
its own and in that of the next node, and publishes twice a second. What a node costs, in its own CPU time and in
operations of the store, must not depend on how many nodes there are.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import uvloop

from tidewire.backends import open_backend
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.messages import Format
from tidewire.protocols.plain import PLAIN
from tidewire.testing.links import FakeLink

__all__ = ("COUNTS", "Cost")

COUNTS = (5, 15, 50)
LIMITS = Limits()
#: Publishes of each node in a second.
RATE = 2.0


class Cost(msgspec.Struct, frozen=True):
    """What one node costs in a second: CPU milliseconds of this process, operations of the store (-1: not known)."""

    nodes: int
    idle_cpu: float
    idle_operations: float
    busy_cpu: float
    busy_operations: float
    delivered: bool


async def _redis_operations(url: str) -> float:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        return float((await client.info("stats"))["total_commands_processed"])


async def _postgres_operations(url: str) -> float:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return float(await connection.fetchval("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"))
    finally:
        await connection.close()


async def _unknown(url: str) -> float:
    return -1.0


_OPERATIONS: dict[str, Callable[[str], Awaitable[float]]] = {
    "redis": _redis_operations,
    "postgresql": _postgres_operations,
}


class _Nodes:
    """So many nodes, and what their clients were sent."""

    def __init__(self, url: str, count: int) -> None:
        self._nodes = [Node(*open_backend(url, LIMITS), limits=LIMITS) for _ in range(count)]
        self._links = [FakeLink() for _ in range(count)]
        self._published = 0

    async def start(self, stack: AsyncExitStack) -> None:
        """Open them, and subscribe their clients."""
        for node in self._nodes:
            await node.start()
            stack.push_async_callback(node.aclose)
        for number, (node, link) in enumerate(zip(self._nodes, self._links, strict=True)):
            client = Connection(link, PLAIN, user="", address="", limits=LIMITS)
            await node.attach(client)
            for channel in (number, (number + 1) % len(self._nodes)):
                await node.subscribe(client, f"node{channel}")

    async def publish(self, seconds: float) -> None:
        """Publish from all nodes at their rate, spread evenly."""
        loop, interval = asyncio.get_running_loop(), 1 / (RATE * len(self._nodes))
        begun = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds / interval)):
                await asyncio.sleep(max(0.0, begun + number * interval - loop.time()))
                at = number % len(self._nodes)
                group.create_task(self._nodes[at].publish(f"node{at}", b"x" * 128, Format.TEXT))
                self._published += 1

    async def all_delivered(self) -> bool:
        """Wait until each publication has reached its two clients, for ten seconds at most."""
        for _ in range(200):
            if sum(len(link.data) for link in self._links) >= 2 * self._published:
                return True
            await asyncio.sleep(0.05)
        return False


async def measure(url: str, count: int, seconds: float) -> Cost:
    """Measure so many nodes, idle and publishing."""
    operations = _OPERATIONS.get(url.partition(":")[0], _unknown)

    async def cost(work: Awaitable[None]) -> tuple[float, float]:
        before, cpu, began = await operations(url), time.process_time(), time.monotonic()
        await work
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        done = await operations(url) - before
        return cpu / took / count * 1e3, done / took / count if before >= 0 else -1.0

    async with AsyncExitStack() as stack:
        nodes = _Nodes(url, count)
        await nodes.start(stack)
        await asyncio.sleep(1.0)
        idle, busy = await cost(asyncio.sleep(seconds)), await cost(nodes.publish(seconds))
        return Cost(count, *idle, *busy, await nodes.all_delivered())


def main() -> None:
    """Measure every number of nodes on the store of a URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=10.5)  # a comparison of positions comes every ten
    given = parser.parse_args()
    found = [uvloop.run(measure(given.url, count, given.seconds)) for count in COUNTS]
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
