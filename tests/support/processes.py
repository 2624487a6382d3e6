"""What holds on every store whose nodes are processes of their own; each check takes the URL of a store that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from backends.redis.test_processes import told, worker
from contract.chatting import Chat
from contract.serving import Server, until
from core.support import run
from support.stores import Daemon
from tidewire.backends import open_backend
from tidewire.messages import Departure
from tidewire.options import Limits
from tidewire.testing import wait_until

__all__ = ("acknowledged_is_kept", "dead_are_claimed_in_time", "same_order_exactly_once", "two_workers_are_one_chat")


def same_order_exactly_once(url: str) -> list[int]:
    """Two processes publish together, and both see everything in one order; returns the offsets."""
    with contextlib.ExitStack() as stack:
        options = {"tasks": 10, "each": 100, "expected": 2_000}
        children = [stack.enter_context(worker(url, "exchange", **options)) for _ in range(2)]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        answers = [json.loads(child.communicate(timeout=30)[0]) for child in children]
    assert answers[0] == answers[1]
    offsets = [offset for offset, _ in answers[0]]
    assert offsets == sorted(set(offsets))
    assert len({data for _, data in answers[0]}) == len(offsets) == 2_000
    return offsets


def acknowledged_is_kept(url: str) -> None:
    """What a process acknowledged before it was killed is in the store."""
    with worker(url, "flood", tasks=20) as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline()) for _ in range(500)]
        process.kill()
        acknowledged = first + told(process)

    async def scenario() -> None:
        broker, _ = open_backend(url, Limits())
        await broker.start(lambda _: None)
        page = await broker.history("a")
        await broker.aclose()
        stored = {p.offset: p.data.decode().strip() for p in page.publications}
        assert len(acknowledged) >= 500
        assert all(stored[offset] == data for offset, data in acknowledged)

    run(scenario())


def dead_are_claimed_in_time(url: str, signum: signal.Signals) -> None:
    """The members of a killed or frozen process can be claimed 6 to 12 seconds later, each once."""

    async def scenario(process: subprocess.Popen[str]) -> None:
        _, presence = open_backend(url, Limits())
        await presence.start("survivor")
        assert await presence.count("a") == 3
        process.send_signal(signum)
        died = time.monotonic()
        found: list[Departure] = []

        async def is_claimed() -> bool:
            await presence.touch()
            found.extend(await presence.claim())
            await asyncio.sleep(0.2)
            return len(found) == 3

        await wait_until(is_claimed, 14, "the members are claimed")
        assert 6 < time.monotonic() - died < 12
        assert await presence.count("a") == 0
        assert {departure.user for departure in found} == {"user 0", "user 1", "user 2"}
        await presence.forget(found)
        await presence.aclose()

    with worker(url, "attend", members=3) as process:
        run(scenario(process), 40)


def two_workers_are_one_chat(folder: Path, url: str, store: Daemon) -> None:
    """Who is on one worker meets who is on the other, until that one is killed; the store's absence is told."""
    folder.mkdir(exist_ok=True)
    server = Server(folder, broker=url, workers=2)
    with server.running():
        one, other = server.worker_pids()
        ann, ann_token = server.sign_up()
        ben, ben_token = server.sign_up()

        async def scenario() -> None:
            async with Chat(server, ann_token, room="lobby", worker=one) as near:
                await near.joined()
                async with Chat(server, ben_token, room="lobby", worker=other) as far:
                    await far.joined()
                    assert set(await near.who()) == set(await far.who()) == {ann, ben}
                    await far.say("from the other worker")
                    await near.expect("chat_message", content="from the other worker")
                    os.kill(other, signal.SIGKILL)
                    await far.closed(within=15)
                await near.expect("system", within=15, content=f"User '{ben}' has left the chat.")
                assert await near.who() == [ann]

        asyncio.run(scenario())
        store.kill()
        until(lambda: server.http.get("/readyz").status_code == 503, 10, what="the server says that it is degraded")
        store.start()
        until(lambda: server.http.get("/readyz").status_code == 200, 15, what="the server is ready again")
