"""Users come and go over workers that are killed and stalled: each `joined` has its `left`, and both are true.

STORM_SECONDS=600 STORM_USERS=1000 python -m pytest -m slow tests/events/test_storm.py -k sqlite
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.serving import free_port
from tidewire.testing import wait_until

from .workers import Process, Receiver, logged

#: How long the storm lasts, for how long the webhook's receiver is down, and how many users come and go.
SECONDS = float(os.environ.get("STORM_SECONDS", "40"))
DOWN = min(120.0, SECONDS / 2)
USERS = int(os.environ.get("STORM_USERS", "60"))
#: How many of them stay, so that what was told of them must be true in the end.
STAYING = max(5, USERS // 20)
#: So many come in a second, one in five of them a second device: how much of the machine it takes.
RATE = float(os.environ.get("STORM_RATE", "40"))
LONGEST_STAY = max(1.0, 2.5 * USERS / RATE - 2.0)
#: Seconds for the last of the members of dead workers; a hundred events in a request, each of which is sent twice.
SETTLE, CATCH_UP = 120.0, 60.0 + 2 * SECONDS
#: Longer than a lease.
STALL = 18.0
_BEGINNINGS = {"left": "joined", "vacated": "occupied", "disconnected": "connected"}


class Storm:
    """Three workers, the users that come and go, and what is told of them."""

    def __init__(self, folder: Path, url: str, port: int) -> None:
        self.folder, self.port = folder, port
        self.workers = [Process(folder, url, f"http://127.0.0.1:{port}/in") for _ in range(3)]
        self.receiver = Receiver()
        self.source = random.Random(5)
        self.visits = self.kills = self.stalls = 0
        self.is_over = False

    @contextlib.asynccontextmanager
    async def visit(self, user: str, channel: str) -> AsyncIterator[asyncio.StreamReader]:
        """Be subscribed to a channel on some worker; raw, so that a thousand of them cost little."""
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.source.choice(self.workers).port)
        try:
            async with asyncio.timeout(20):
                key = base64.b64encode(os.urandom(16)).decode()
                writer.write(
                    f"GET /connection/websocket?user={user} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                    f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
                )
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
                commands = f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{channel}"}}}}'.encode()
                assert len(commands) < 126
                writer.write(bytes((0x81, 0x80 | len(commands), 0, 0, 0, 0)) + commands)
                reply = b""
                while b'"id":2' not in reply:
                    more = await reader.read(4_096)
                    assert more
                    reply += more
            assert b'"error"' not in reply, reply
            self.visits += 1
            yield reader
            if self.source.random() < 0.5:
                writer.write(bytes((0x88, 0x80, 0, 0, 0, 0)))  # a close; else it is only gone
        finally:
            writer.close()

    async def live(self, number: int, until: float) -> None:
        """Come and go; one in four has a second device."""
        user, room = f"user{number}", f"room:{number % max(3, USERS // 6)}"
        while time.monotonic() < until:
            devices = 2 if self.source.random() < 0.25 else 1
            await asyncio.gather(*(self._stay(user, room) for _ in range(devices)))
            await asyncio.sleep(self.source.uniform(0.0, 2.0))

    async def _stay(self, user: str, room: str) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError, AssertionError):
            async with self.visit(user, room) as reader:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.source.uniform(0.2, LONGEST_STAY)):
                        while await reader.read(4_096):
                            pass

    async def remain(self, number: int) -> None:
        """Be there to the end, and be back at once where the worker is killed."""
        while not self.is_over:
            with contextlib.suppress(OSError, EOFError, TimeoutError, AssertionError):
                async with self.visit(f"staying{number}", "room:100000") as reader:
                    while not self.is_over:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(1):
                                if not await reader.read(4_096):
                                    break
            await asyncio.sleep(0.1)

    async def kill(self, until: float) -> None:
        """Kill a worker every few seconds."""
        while time.monotonic() < until:
            await asyncio.sleep(self.source.uniform(2.0, 5.0))
            worker = self.source.choice(self.workers)
            await asyncio.to_thread(worker.kill)
            self.kills += 1
            await asyncio.sleep(1.0)
            await asyncio.to_thread(worker.start)

    async def stall(self, until: float) -> None:
        """Stall a worker now and then, for longer than its lease; it may be killed meanwhile."""
        while time.monotonic() < until - STALL:
            await asyncio.sleep(self.source.uniform(5.0, 20.0))
            worker = self.source.choice(self.workers)
            self.stalls += worker.stall()
            await asyncio.sleep(STALL)
            worker.go_on()

    async def receive(self) -> None:
        """Receive what the webhook sends, but for the time in the middle."""
        async with await asyncio.start_server(self.receiver.answer, "127.0.0.1", self.port):
            await asyncio.sleep((SECONDS - DOWN) / 2)
        await asyncio.sleep(DOWN)
        async with await asyncio.start_server(self.receiver.answer, "127.0.0.1", self.port):
            await asyncio.sleep(3600)

    async def run(self) -> None:
        """Let it storm, and wait until all was told."""
        receiving = asyncio.create_task(self.receive())
        remaining = [asyncio.create_task(self.remain(number)) for number in range(STAYING)]
        until = time.monotonic() + SECONDS
        users = (self.live(number, until) for number in range(USERS))
        await asyncio.gather(self.kill(until), self.stall(until), *users)
        for kind in ("joined", "connected"):
            await wait_until(lambda kind=kind: self.is_told(kind), SETTLE, what=f"they are told as {kind}")  # type: ignore[misc]
        self.is_over = True
        await asyncio.gather(*remaining)
        await wait_until(lambda: is_quiet(logged(self.folder)), SETTLE, what="all ends are told")
        wanted = pairs(logged(self.folder), "joined")
        await wait_until(lambda: pairs(self.received(), "joined") == wanted, CATCH_UP, what="the webhook has got all")
        receiving.cancel()

    def is_told(self, kind: str) -> bool:
        """Return whether those who remain are there, by what was told."""
        told = {key[1]: kinds[-1] for key, kinds in pairs(logged(self.folder), kind).items()}
        return all(told.get(f"staying{number}") == kind for number in range(STAYING))

    def received(self) -> list[list[Any]]:
        """Return what the webhook has sent, in the form of `logged`."""
        return [[one["id"], one["kind"], one["channel"], one["user"], 0] for one in self.receiver.events]

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.kill()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + CATCH_UP + 2 * SETTLE + 200)
def test_each_joined_has_its_left_whoever_is_killed(kept_url: str, tmp_path: Path, capfd: Any) -> None:
    storm = Storm(tmp_path, kept_url, free_port())
    try:
        asyncio.run(storm.run())
        told = [logged(tmp_path), storm.received()]
        for begin, end in (("joined", "left"), ("occupied", "vacated"), ("connected", "disconnected")):
            found = pairs(told[0], begin)
            assert not {key: kinds for key, kinds in found.items() if kinds != [begin, end] * (len(kinds) // 2)}
            assert len(found) > 2
        assert len(pairs(told[1], "joined")) > USERS // 2
        assert storm.receiver.refusals
        with capfd.disabled():
            _report(storm, kept_url, tmp_path)
    finally:
        storm.close()


def _report(storm: Storm, url: str, folder: Path) -> None:
    events = len({one[0] for one in logged(folder)})
    used = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, workers = (one.ru_utime + one.ru_stime for one in used)
    print(
        f"\n{url.partition(':')[0]}: {USERS} users, {storm.visits} visits, {events} events, {storm.kills} kills,"
        f" {storm.stalls} stalls, {storm.receiver.refusals} requests refused, {DOWN:.0f} s of {SECONDS:.0f} down;"
        f" CPU {own:.0f} s here, {workers:.0f} s in workers that have ended",
        flush=True,
    )


def pairs(told: list[list[Any]], begin: str) -> dict[tuple[str, str], list[str]]:
    """Return the kinds of a pair's events for each channel and user, without repetitions, which have the same id."""
    found: dict[tuple[str, str], list[str]] = {}
    ids: dict[str, list[Any]] = {}
    for id_, *rest, _ in told:
        if ids.setdefault(id_, rest) is rest:
            kind, channel, name = rest
            if begin == _BEGINNINGS.get(kind, kind):
                found.setdefault((channel, name), []).append(kind)
        else:
            assert ids[id_] == rest
    return found


def is_quiet(told: list[list[Any]]) -> bool:
    """Return whether the last event of each is an end."""
    return all(kinds[-1] in _BEGINNINGS for begin in _BEGINNINGS.values() for kinds in pairs(told, begin).values())
