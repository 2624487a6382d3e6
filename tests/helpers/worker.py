"""A node of its own process, for tests: `worker.py URL MODE OPTIONS`; prints lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tidewire.backends import open_backend
from tidewire.errors import PublishError
from tidewire.limits import Limits
from tidewire.messages import Announcement, Member, Publication, PublishRequest
from tidewire.retention import Retention

ALL = Retention(1_000_000, 1e9)


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def exchange(url: str, options: dict[str, Any]) -> None:
    """Publish together with others, and tell everything that was delivered, in order."""
    delivered: list[Publication] = []
    broker, _ = open_backend(url, Limits())
    await broker.start(delivered.extend)
    await broker.subscribe("a")
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)

    async def publish(task: int) -> None:
        for n in range(options["each"]):
            await broker.publish(PublishRequest("a", f"{os.getpid()}/{task}/{n}".encode(), retention=ALL))

    await asyncio.gather(*(publish(task) for task in range(options["tasks"])))
    async with asyncio.timeout(20):
        while len(delivered) < options["expected"]:
            await asyncio.sleep(0.01)
    await broker.aclose()
    say([[publication.offset, publication.data.decode()] for publication in delivered])


async def flood(url: str, options: dict[str, Any]) -> None:
    """Publish without end, and tell each message when it is acknowledged."""
    broker, _ = open_backend(url, Limits(channel_history_bytes=10**9))
    await broker.start(lambda _: None)
    say("ready")

    async def publish(task: int) -> None:
        n = 0
        while True:
            data = f"{task}/{n}".ljust(options.get("size", 0))
            try:
                position = await broker.publish(PublishRequest("a", data.encode(), retention=ALL))
                say([position.offset, data.strip()])
            except PublishError as error:
                say([0, str(error)])
            n += 1
            await asyncio.sleep(options.get("pause", 0))

    await asyncio.gather(*(publish(task) for task in range(options["tasks"])))


async def attend(url: str, options: dict[str, Any]) -> None:
    """Be present, and touch the lease until killed."""
    _, presence = open_backend(url, Limits())
    await presence.start("worker")
    for n in range(options["members"]):
        await presence.join("a", Member(f"{os.getpid()}-{n}", f"user {n}"), Announcement(b"bye"))
    say("ready")
    while True:
        await presence.touch()
        await asyncio.sleep(0.5)


MODES = {mode.__name__: mode for mode in (exchange, flood, attend)}

if __name__ == "__main__":
    asyncio.run(MODES[sys.argv[2]](sys.argv[1], json.loads(sys.argv[3])))
