"""Nodes in processes of their own on every store for many machines: together, killed, frozen, and as workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.chatting import Chat
from contract.serving import Server, until
from engine.support import run
from helpers.processes import told, worker
from helpers.stores import Daemon, postgres_database, start_nats, start_postgres, start_redis
from tidewire.backends import open_backend
from tidewire.limits import Limits
from tidewire.messages import Departure
from tidewire.testing import wait_until

Running = tuple[str, Daemon]


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Running]:
    with start_redis(folder) as server:
        yield f"redis://127.0.0.1:{server.port}", server


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Running]:
    with start_postgres() as server:
        yield server.url(), server


@contextlib.contextmanager
def nats(folder: Path) -> Iterator[Running]:
    with start_nats(folder) as server:
        yield f"nats://127.0.0.1:{server.port}", server


Start = Callable[[Path], contextlib.AbstractContextManager[Running]]


@pytest.fixture(params=[redis, postgres, nats], ids=lambda start: start.__name__)
def start(request: pytest.FixtureRequest) -> Start:
    found: Start = request.param
    return found


@pytest.fixture
def url(start: Start, tmp_path: Path) -> Iterator[str]:
    if start is postgres:
        yield postgres_database()
    else:
        with start(tmp_path) as (found, _):
            yield found


def test_processes_deliver_the_same_order_exactly_once(url: str) -> None:
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


def test_what_a_killed_process_acknowledged_is_there(url: str) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_the_members_of_a_dead_or_frozen_process_can_be_claimed_after_6_to_12_seconds(
    url: str, signum: signal.Signals
) -> None:
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
        assert 5.9 < time.monotonic() - died < 12
        assert await presence.count("a") == 0
        assert {departure.user for departure in found} == {"user 0", "user 1", "user 2"}
        await presence.forget(found)
        await presence.aclose()

    with worker(url, "attend", members=3) as process:
        run(scenario(process), 40)


@pytest.fixture
def served(start: Start, tmp_path: Path) -> Iterator[tuple[Server, Daemon]]:
    """Run two workers on one store."""
    with start(tmp_path / "store") as (found, store):
        (tmp_path / "run").mkdir()
        with Server(tmp_path / "run", broker=found, workers=2).running() as server:
            yield server, store


def test_two_workers_of_a_server_are_one_chat_and_say_when_the_store_is_away(served: tuple[Server, Daemon]) -> None:
    server, store = served
    one, other = server.worker_pids()
    ann, ann_token = server.sign_up()
    ben, ben_token = server.sign_up()

    async def scenario() -> None:
        async with (
            Chat(server, ann_token, room="lobby", worker=one) as near,
            Chat(server, ben_token, room="lobby", worker=other) as far,
        ):
            await near.joined()
            await far.joined()
            assert set(await near.who()) == set(await far.who()) == {ann, ben}
            await far.say("from the other worker")
            await near.expect("chat_message", content="from the other worker")

    asyncio.run(scenario())
    store.kill()
    until(lambda: server.http.get("/readyz").status_code == 503, 10, what="the server says that it is degraded")
    store.start()
    until(lambda: server.http.get("/readyz").status_code == 200, 15, what="the server is ready again")


@pytest.mark.slow
def test_who_was_on_a_killed_worker_leaves(served: tuple[Server, Daemon]) -> None:
    server, _ = served
    one, other = server.worker_pids()
    ann, ann_token = server.sign_up()
    ben, ben_token = server.sign_up()

    async def scenario() -> None:
        async with Chat(server, ann_token, room="lobby", worker=one) as near:
            await near.joined()
            async with Chat(server, ben_token, room="lobby", worker=other) as far:
                await far.joined()
                os.kill(other, signal.SIGKILL)
                await far.closed(within=15)
            await near.expect("system", within=15, content=f"User '{ben}' has left the chat.")
            assert await near.who() == [ann]

    asyncio.run(scenario())
