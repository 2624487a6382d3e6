"""Clients that drop and come back, on two workers: `python -m bench.stores.recovery jitter|storm URL`.

Prints a line of JSON.

jitter: 1,000 clients, each dropped for 2 s every 15 s, while 120 messages are published in 120 s.
storm: 2,000 clients come back at once, each of which has missed 100 messages, beside 100 that never left. They run at
the lowest priority, for the machine is also theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
import uvloop

from bench.processes import free_port
from bench.stores.crowd import Crowd, Member, payload
from tidewire.backends import open_backend
from tidewire.errors import PublishError
from tidewire.limits import Limits
from tidewire.messages import PublishRequest
from tidewire.retention import Retention

__all__ = ("Jitter", "Storm")

PATH = "/connection/websocket"
RETENTION = Retention(500, 3_600.0)
_START_SECONDS = 30.0


class Jitter(msgspec.Struct, frozen=True):
    """What came of all that was published to all clients; `told` had to be told that something is missing."""

    clients: int
    messages: int
    delivered: float
    lost: int
    twice: int
    told: int
    drops: int
    recoveries: int


class Storm(msgspec.Struct, frozen=True):
    """How long it took until all had all; p99 (ms) of those who never left, before and meanwhile."""

    clients: int
    recovered: int
    exact: bool
    seconds: float
    calm_p99: float
    storm_p99: float


@contextmanager
def serving(url: str, workers: int, *, admitted: bool = True) -> Iterator[int]:
    """Run our server on a free port."""
    port = free_port()
    command = [sys.executable, "-m", "tidewire", "run", "bench.apps.clients:app", "--port", str(port)]
    environment = {**os.environ, "BENCH_URL": url, "BENCH_UNADMITTED": "" if admitted else "1"}
    process = subprocess.Popen([*command, "--workers", str(workers)], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


class Writer:
    """Publishes from this process, as another node would."""

    def __init__(self, url: str) -> None:
        self._broker, _ = open_backend(url, Limits())

    async def __aenter__(self) -> Writer:
        await self._broker.start(lambda publications: None)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._broker.aclose()

    async def publish(self, channel: str, number: int) -> None:
        """Publish a message until it is kept."""
        while True:
            data = json.dumps(payload(number)).encode()
            try:
                request = PublishRequest(channel, data, key=f"{channel}-{number}", retention=RETENTION)
                await self._broker.publish(request)
            except PublishError:
                await asyncio.sleep(0.05)
            else:
                return


async def _opened(crowd: Crowd) -> None:
    """Open a crowd, as soon as the server takes clients; raises TimeoutError when it does not."""
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                await crowd.connect(crowd.members[0])
                break
            except OSError:
                await asyncio.sleep(0.1)
    await crowd.open(crowd.members[1:])


async def jitter(url: str, port: int, clients: int, messages: int, every: float, away: float) -> Jitter:
    """Drop each client again and again while messages are published, one a second."""
    crowd, drops = Crowd(port, PATH, "jitter", clients), 0
    await _opened(crowd)
    for member in crowd.members:
        member.next = 0

    async def shake(member: Member) -> None:
        nonlocal drops
        await asyncio.sleep(random.random() * every)
        while True:
            member.drop()
            drops += 1
            await asyncio.sleep(away)
            while member.to is None:
                try:
                    await crowd.connect(member)
                except OSError:
                    await asyncio.sleep(0.2)
            await asyncio.sleep(every - away)

    async with Writer(url) as writer:
        shaking = [asyncio.create_task(shake(member)) for member in crowd.members]
        began = time.monotonic()
        for number in range(messages):
            await writer.publish("jitter", number)
            await asyncio.sleep(max(0.0, began + number + 1 - time.monotonic()))
        for task in shaking:
            task.cancel()
        await asyncio.wait(shaking)
        for member in crowd.members:
            if member.to is None:
                await crowd.connect(member)
        await crowd.wait_for(messages - 1, limit=15)
    tally = crowd.tally
    crowd.close()
    share = tally.received / (clients * messages)
    return Jitter(clients, messages, share, tally.lost, tally.twice, tally.told, drops, tally.recoveries)


async def steady(url: str, port: int) -> None:
    """Be those who never leave: say on every line of input what the p99 was since the last one, in milliseconds."""
    channel = f"steady-{time.time_ns()}"
    crowd = Crowd(port, PATH, channel, 100)
    await _opened(crowd)
    crowd.tally.keeps_latencies = True

    async def publish(writer: Writer) -> None:
        began = time.monotonic()
        for number in range(1 << 30):
            await writer.publish(channel, number)
            await asyncio.sleep(max(0.0, began + (number + 1) / 50 - time.monotonic()))

    async with Writer(url) as writer:
        publishing = asyncio.create_task(publish(writer))
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            latencies, crowd.tally.latencies = sorted(crowd.tally.latencies), []
            print(json.dumps(latencies[int(len(latencies) * 0.99)] / 1e6 if latencies else 0.0), flush=True)
        publishing.cancel()
        await asyncio.wait([publishing])
    crowd.close()


async def storm(url: str, port: int, clients: int, missed: int) -> Storm:
    """Let all come back at once."""
    channel = f"storm-{time.time_ns()}"
    crowd = Crowd(port, PATH, channel, clients)
    await _opened(crowd)
    command = [sys.executable, "-m", "bench.stores.recovery", "steady", url, "--port", str(port)]
    other = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    async def told() -> float:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"\n")
        return float(await other.stdout.readline())

    assert other.stdout is not None
    assert await other.stdout.readline() == b"ready\n", "those who never leave did not start"
    async with Writer(url) as writer:
        for member in crowd.members:
            member.next = 0
        await writer.publish(channel, 0)
        await crowd.wait_for(0, limit=10)
        crowd.close()
        for number in range(1, missed + 1):
            await writer.publish(channel, number)
        await asyncio.sleep(1.0)
        await told()
        await asyncio.sleep(4.0)
        calm = await told()
        os.nice(19)  # the others' processors would be elsewhere
        began = time.monotonic()
        await crowd.open(at_once=clients)
        behind = await crowd.wait_for(missed, limit=30)
        seconds = time.monotonic() - began
        during = await told()
        await writer.publish(channel, missed + 1)
        behind += await crowd.wait_for(missed + 1, limit=10)
    tally = crowd.tally
    other.kill()
    await other.wait()
    crowd.close()
    exact = not (behind or tally.lost or tally.twice or tally.told)
    return Storm(clients, clients - behind, exact, seconds, calm, during)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=["jitter", "storm", "steady"])
    parser.add_argument("url")
    parser.add_argument("--port", type=int)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--unadmitted", action="store_true", help="let newcomers begin as they come")
    given = parser.parse_args()
    if given.work == "steady":
        uvloop.run(steady(given.url, given.port))
        return
    with serving(given.url, workers=2, admitted=not given.unadmitted) as port:
        result: Jitter | Storm
        if given.work == "jitter":
            result = uvloop.run(jitter(given.url, port, given.clients or 1_000, given.messages or 120, 15.0, 2.0))
        else:
            result = uvloop.run(storm(given.url, port, given.clients or 2_000, given.messages or 100))
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
