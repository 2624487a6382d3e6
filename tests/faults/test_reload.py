"""A rolling reload, and a stop and a start, in mid-traffic: clients of both protocols miss nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from contract.serving import Server
from engine.support import run
from tidewire.testing import wait_until

from .crowd import Crowd, census
from .serving import serving, store

#: Seconds for the drains, and for clients to be back when they are over.
DRAIN, BACK = 1.0, 10.0


def test_a_rolling_reload_in_mid_traffic(tmp_path: Path) -> None:
    async def reload(server: Server) -> None:
        assert server.process is not None
        old = set(server.worker_pids())
        server.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: not old & set(server.worker_pids()), 40, "new workers")

    _in_mid_traffic(tmp_path, reload)


@pytest.mark.slow
def test_a_stop_and_a_start_in_mid_traffic(tmp_path: Path) -> None:
    async def restart(server: Server) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)

    _in_mid_traffic(tmp_path, restart)


def _in_mid_traffic(folder: Path, act: Callable[[Server], Awaitable[None]]) -> None:
    limits = {"drain_seconds": DRAIN}
    with store("redis", folder) as used, serving(folder / "run", used.url, limits=limits) as server:

        async def scenario() -> None:
            crowd = Crowd(server, followers=8, chatters=4)
            async with crowd.following():
                before = await census(server)
                async with crowd.publishing():
                    await crowd.succeeds()
                    await act(server)
                    await crowd.all_hear(BACK)
                    await crowd.succeeds()
                await crowd.check()
                await crowd.presence_is_true(15)
                await crowd.nothing_is_left(before)

        run(scenario(), 90)
