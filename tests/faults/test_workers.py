"""A worker that is killed or frozen, on every store that workers share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from engine.support import run
from tidewire.testing import wait_until

from .crowd import Crowd, census
from .serving import STORES, serving, store

#: Seconds within which clients are back when there is a new worker, and within which who died is no member any more.
BACK, GONE = 5.0, 15.0


@pytest.mark.parametrize("signum", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["redis", *(pytest.param(n, marks=pytest.mark.slow) for n in STORES if n != "redis")])
def test_a_killed_or_frozen_worker_costs_nothing(tmp_path: Path, name: str, signum: signal.Signals) -> None:
    with store(name, tmp_path) as used, serving(tmp_path / "run", used.url) as server:

        async def scenario() -> None:
            crowd = Crowd(server, has_holes=used.has_holes)
            async with crowd.following():
                before = await census(server)
                doomed = max(before, key=lambda pid: before[pid].clients)
                async with crowd.publishing():
                    await crowd.succeeds()
                    first = set(await crowd.present())
                    os.kill(doomed, signum)
                    died = time.monotonic()
                    await wait_until(lambda: set(server.worker_pids()) - before.keys(), 10, "a new worker")
                    await crowd.all_hear(BACK)
                await crowd.presence_is_true(GONE - (time.monotonic() - died))
                assert first - set(await crowd.present()), "somebody was on the worker that died"
                await crowd.check()
                await crowd.nothing_is_left(before)

        run(scenario(), 80)
