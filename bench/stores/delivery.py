"""From a publish on one node to the arrival on another, beside the store's own round trip, on one running store.

`python -m bench.stores.delivery URL`: prints a line of JSON. The other node is a process of its own (`--arrive`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from tidewire.backends import open_backend, sqlite_path
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.messages import Format
from tidewire.protocols.plain import PLAIN
from tidewire.testing import FakeLink

__all__ = ("Waits", "measure")

RATE, SECONDS, WARM, SIZE = 1_000, 4.0, 0.5, 128
CHANNEL = "delivery"
#: How many round trips of the store itself are measured, one after another.
ROUND_TRIPS = 1_500


class Waits(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int]) -> Waits:
        """Return the percentiles of some waits."""
        ordered = sorted(nanoseconds)
        return cls(*(ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1e6 for part in (0.5, 0.99)))


class _Clocked(FakeLink):
    """Notes when each message is written to the client."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[int] = []

    def write(self, batch: Any) -> None:
        now = time.monotonic_ns()
        self.waits += [now - int(message.data.split(b" ", 1)[0]) for message in batch.messages]


def _node(url: str) -> Node:
    limits = Limits()
    return Node(*open_backend(url, limits), limits=limits)


async def arrive(url: str) -> None:
    """Be the other node: one client follows the channel; at the end of the input, say how long messages took."""
    node, link = _node(url), _Clocked()
    await node.start()
    connection = Connection(link, PLAIN, user="", address="", limits=node.limits)
    await node.attach(connection)
    await node.subscribe(connection, CHANNEL)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    waits, link.waits = link.waits, []
    await node.aclose()
    print(json.dumps(waits), flush=True)


async def ours(url: str) -> Waits:
    """Publish at an even rate here, and take what the other node says."""
    command = [sys.executable, "-m", "bench.stores.delivery", url, "--arrive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:  # noqa: ASYNC220
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n", "the other node did not start"
        node = _node(url)
        await node.start()
        await _publish_evenly(node)
        await asyncio.sleep(0.5)
        other.stdin.write("\n")
        other.stdin.flush()
        waits = json.loads(await asyncio.to_thread(other.stdout.readline))
        await node.aclose()
    assert len(waits) == int(RATE * SECONDS), f"{len(waits)} of {int(RATE * SECONDS)} messages arrived"
    return Waits.of(waits[int(RATE * WARM) :])


async def _publish_evenly(node: Node) -> None:
    loop = asyncio.get_running_loop()
    began, tasks = loop.time(), set[asyncio.Task[Any]]()
    for number in range(int(RATE * SECONDS)):
        due = began + number / RATE
        if (early := due - loop.time()) > 0:
            await asyncio.sleep(early)
        data = f"{time.monotonic_ns()} ".ljust(SIZE, "x").encode()
        task = loop.create_task(node.publish(CHANNEL, data, Format.TEXT))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


# The stores' own round trips: keep one message, tell it, and hear of it on another connection.


async def _round_trips(once: Callable[[], Awaitable[None]], heard: asyncio.Queue[None]) -> Waits:
    waits = []
    for _ in range(ROUND_TRIPS):
        began = time.monotonic_ns()
        await once()
        await heard.get()
        waits.append(time.monotonic_ns() - began)
    return Waits.of(waits[ROUND_TRIPS // 10 :])


async def redis_alone(url: str) -> Waits:
    """SET and PUBLISH, and the message on a subscribed connection."""
    from redis.asyncio import Redis

    heard: asyncio.Queue[None] = asyncio.Queue()
    async with Redis.from_url(url) as client, Redis.from_url(url) as other, other.pubsub() as listening:
        await listening.subscribe("bench-alone")

        async def listen() -> None:
            async for message in listening.listen():
                if message["type"] == "message":
                    heard.put_nowait(None)

        async def once() -> None:
            await client.set("bench-alone", b"x" * SIZE)
            await client.publish("bench-alone", b"x" * SIZE)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.2)
        try:
            return await _round_trips(once, heard)
        finally:
            task.cancel()
            await asyncio.wait([task])


async def postgres_alone(url: str) -> Waits:
    """INSERT and commit, NOTIFY, and the notification on a listening connection."""
    import asyncpg

    heard: asyncio.Queue[None] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        client, other = await asyncpg.connect(url), await asyncpg.connect(url)
        stack.push_async_callback(client.close)
        stack.push_async_callback(other.close)
        await client.execute("CREATE TABLE IF NOT EXISTS bench_alone (id bigserial, data bytea)")
        await other.add_listener("bench_alone", lambda *_: heard.put_nowait(None))

        async def once() -> None:
            await client.execute("INSERT INTO bench_alone (data) VALUES ($1)", b"x" * SIZE)
            await client.execute("SELECT pg_notify('bench_alone', '')")

        return await _round_trips(once, heard)


async def nats_alone(url: str) -> Waits:
    """A publish that JetStream acknowledges, and the message at a subscriber."""
    import nats

    heard: asyncio.Queue[None] = asyncio.Queue()
    client, other = await nats.connect(url), await nats.connect(url)
    stream = client.jetstream()
    with suppress(Exception):
        await stream.delete_stream("BENCH_ALONE")
    await stream.add_stream(name="BENCH_ALONE", subjects=["bench.alone"])

    async def hear(message: Any) -> None:
        heard.put_nowait(None)

    await other.subscribe("bench.alone", cb=hear)
    await other.flush()

    async def once() -> None:
        await stream.publish("bench.alone", b"x" * SIZE)

    try:
        return await _round_trips(once, heard)
    finally:
        await stream.delete_stream("BENCH_ALONE")
        await client.close()
        await other.close()


async def sqlite_alone(url: str) -> Waits:
    """A commit with its fsync, and a datagram to another socket."""
    heard: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(dir=sqlite_path(url).parent) as folder:
        connection = sqlite3.connect(Path(folder) / "alone.db", isolation_level=None, check_same_thread=False)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE alone (data BLOB)")
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        there.setblocking(False)
        loop.add_reader(there, lambda: heard.put_nowait(there.recv(16) and None))

        async def once() -> None:
            await loop.run_in_executor(None, connection.execute, "INSERT INTO alone VALUES (?)", (b"x" * SIZE,))
            here.send(b"!")

        try:
            return await _round_trips(once, heard)
        finally:
            loop.remove_reader(there)
            here.close()
            there.close()
            connection.close()


ALONE = {"redis": redis_alone, "postgresql": postgres_alone, "nats": nats_alone, "sqlite": sqlite_alone}


async def measure(url: str) -> dict[str, Waits]:
    """Measure both, one after the other."""
    return {"alone": await ALONE[urlsplit(url).scheme](url), "ours": await ours(url)}


def main() -> None:
    """Measure on the store of a URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--arrive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arrive:
        uvloop.run(arrive(given.url))
        return
    print(msgspec.json.encode(uvloop.run(measure(given.url))).decode())


if __name__ == "__main__":
    main()
