"""Copies of a table, under a fast writer, cut connections and killed workers: equal to it once quiet, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients.serving import Cuttable
from contract.serving import Server
from tidewire.client import ChannelPublication, Client

from .serving import store

pytestmark = pytest.mark.slow

APP = Path(__file__).with_name("state_app.py")
READERS, SECONDS = 12, 10.0


class Copy:
    """What one client believes that the table holds."""

    def __init__(self, url: str) -> None:
        self.rows: dict[str, int] = {}
        self.states = self.publications = 0
        self._url = url
        self._last: tuple[str, int] = ("", 0)

    def _take_state(self, state: dict[str, int]) -> None:
        self.rows = dict(state)
        self.states += 1
        self._last = ("", 0)

    def _take(self, publication: ChannelPublication) -> None:
        position = publication.position
        assert position is not None
        epoch, offset = self._last
        assert epoch in ("", position.epoch), "another epoch without a state"
        assert position.offset > offset, f"{position} came twice, or late, behind {offset}"
        self._last = position.epoch, position.offset
        id, value = publication.data
        self.rows[str(id)] = value
        self.publications += 1

    async def keep(self) -> None:
        async with Client(self._url) as client:
            async for publication in client.subscribe("items", on_state=self._take_state):
                self._take(publication)


async def write(url: str, until: float) -> int:
    """Change rows as fast as it goes, and repeat what was not confirmed, to the last; return how many."""
    done, batch, is_confirmed = 0, 100, True
    async with httpx.AsyncClient(base_url=url, timeout=20) as http:
        while time.monotonic() < until or not is_confirmed:
            is_confirmed = False
            try:
                answer = await http.post("/change", params={"first": done, "count": batch})
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
                continue
            is_confirmed = answer.status_code == 200
            done += batch if is_confirmed else 0
            await asyncio.sleep(max(0.0, done / 1_000 - (SECONDS - (until - time.monotonic()))))
    return done


async def disturb(server: Server, relays: list[Cuttable], until: float) -> None:
    """Cut connections at random, and kill workers while another one serves: a new one has to answer first."""
    serving: set[int] = set()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as http:
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.1, 0.5))
            random.choice(relays).cut()
            with contextlib.suppress(httpx.HTTPError):  # on a connection of its own, which any worker may accept
                serving.add((await http.get("/asked", headers={"connection": "close"})).json()["pid"])
            if len(serving.intersection(server.worker_pids())) == server.workers > 1:
                killed = random.choice(sorted(serving.intersection(server.worker_pids())))
                os.kill(killed, signal.SIGKILL)
                serving.discard(killed)


def table(path: Path) -> dict[str, int]:
    with sqlite3.connect(path) as database:
        return {str(id): value for id, value in database.execute("SELECT id, value FROM items")}


@pytest.mark.parametrize("name", ["memory", "sqlite", "redis", "postgres", "nats"])
def test_no_copy_differs_from_the_table_once_quiet(tmp_path: Path, name: str) -> None:
    async def main(server: Server) -> None:
        relays = [Cuttable(server.port) for _ in range(READERS)]
        copies = [Copy(f"ws://127.0.0.1:{relay.port}/connection/websocket") for relay in relays]
        keeping = [asyncio.create_task(copy.keep()) for copy in copies]
        until = time.monotonic() + SECONDS
        writing = write(f"http://127.0.0.1:{server.port}", until)
        written, _ = await asyncio.gather(writing, disturb(server, relays, until))
        async with asyncio.timeout(60):
            while any(copy.rows != table(tmp_path / "table.db") for copy in copies):
                failed = [task for task in keeping if task.done()]
                assert not failed, failed[0].exception()
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert all(copy.rows == table(tmp_path / "table.db") for copy in copies)
        print(f"{name}: {written / SECONDS:.0f} changes a second")
        assert written >= 1_000
        assert all(copy.publications > 0 for copy in copies)
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)

    with contextlib.ExitStack() as stack:
        url = "memory://" if name == "memory" else stack.enter_context(store(name, tmp_path)).url
        folder = tmp_path / "run"
        folder.mkdir()
        environment = {"STORE": url, "TABLE": str(tmp_path / "table.db")}
        workers = 1 if name == "memory" else 2
        server = Server(folder, app=APP, workers=workers, environment=environment)
        asyncio.run(main(stack.enter_context(server.running())))


def test_two_thousand_who_come_at_once_cost_one_question(tmp_path: Path) -> None:
    """First as strangers, then back after a server that has lost the channel: nobody can recover."""

    async def come(server: Server, states: asyncio.Queue[Any]) -> None:
        async with Client(server.url("/connection/websocket"), seconds=60) as client:
            async for publication in client.subscribe("items", on_state=states.put_nowait):
                raise AssertionError(f"{publication} for nothing")

    async def all_have(states: asyncio.Queue[Any], coming: list[asyncio.Task[None]]) -> None:
        async with asyncio.timeout(60):
            assert [await states.get() for _ in coming] == [{"1": 1}] * len(coming)
        assert states.empty()
        assert not any(task.done() for task in coming)

    async def main(server: Server) -> None:
        states = asyncio.Queue[Any]()
        coming = [asyncio.create_task(come(server, states)) for _ in range(2_000)]
        await all_have(states, coming)
        assert server.http.get("/asked").json()["asked"] <= 2
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await all_have(states, coming)
        assert server.http.get("/asked").json()["asked"] <= 2
        for task in coming:
            task.cancel()
        await asyncio.wait(coming)

    folder = tmp_path / "run"
    folder.mkdir()
    environment = {"STORE": "memory://", "TABLE": str(tmp_path / "table.db")}
    limits = {"connections_per_user": 10_000}
    with Server(folder, app=APP, environment=environment, limits=limits).running() as server:
        server.http.post("/change", params={"first": 1, "count": 1}).raise_for_status()
        asyncio.run(main(server))
