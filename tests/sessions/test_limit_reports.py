"""What a network and a user cost on one machine counts on the others, and is forgotten when it tells no more."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.hubs import run
from helpers.stores import start_redis
from tidewire import Hub, RateLimited
from tidewire.hub import lifecycle
from tidewire.rules.base import Caller, Identity
from tidewire.sessions import limit_reports
from tidewire.support import key_counts
from tidewire.support.key_counts import Counts
from tidewire.testing import wait_until

NETWORK, USER = "192.0.2.7", "rate ann"
#: Messages of a user a second, and at once.
RATE, BURST = 1.0, 200.0


def test_machines_tell_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = itertools.count()
    monkeypatch.setattr(lifecycle, "shared_name", lambda url: f"{url} of machine {next(machines)}")
    monkeypatch.setattr(limit_reports, "_SECONDS", 0.05)
    limits = {"connections_per_address": 6, "rate": 1.0, "burst": 200, "rate_per_user": RATE}

    async def main(url: str) -> None:
        async with Hub(url, limits=limits) as one, Hub(url, limits=limits) as two:
            here, there = one.node.registry.counts, two.node.registry.counts
            assert [here.add(NETWORK, 6) for _ in range(4)] == [True] * 4
            await wait_until(lambda: there.elsewhere.get(NETWORK) == 4)
            assert [there.add(NETWORK, 6) for _ in range(3)] == [True, True, False]
            await wait_until(lambda: here.elsewhere.get(NETWORK) == 2)
            assert not here.add(NETWORK, 6)
            for _ in range(4):
                here.remove(NETWORK)
            await wait_until(lambda: NETWORK not in there.elsewhere)
            charged: list[int] = []
            charge = there.charge
            monkeypatch.setattr(there, "charge", lambda *of: (charge(*of), charged.append(of[1])))
            assert here.take(USER, 120, RATE, BURST) == 120
            await wait_until(lambda: sum(charged) == 120)
            assert 80 <= there.take(USER, 200, RATE, BURST) < 120

    with start_redis(tmp_path / "redis") as redis:
        run(main(f"redis://127.0.0.1:{redis.port}"))


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_user_that_presses_several_machines_has_one_rate(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = itertools.count()
    monkeypatch.setattr(lifecycle, "shared_name", lambda url: f"{url} of machine {next(machines)}")
    monkeypatch.setattr(limit_reports, "_SECONDS", 0.1)
    caller, rate, burst, seconds = Caller("one", Identity("ann")), 100, 5, 3.0

    async def main(url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            hubs = [await stack.enter_async_context(Hub(url)) for _ in range(number)]
            limits = [hub.rate(f"{rate}/s burst {burst} per user", name="say") for hub in hubs]
            accepted, begun = 0, time.monotonic()
            while time.monotonic() < begun + seconds:
                for limit in 5 * limits:
                    with contextlib.suppress(RateLimited):
                        limit.take(caller)
                        accepted += 1
                await asyncio.sleep(0.01)
            assert accepted == pytest.approx(burst + rate * (time.monotonic() - begun), rel=0.3)

    with start_redis(tmp_path / "redis") as redis:
        run(main(f"redis://127.0.0.1:{redis.port}"))


def test_a_user_below_the_rate_on_all_machines_together_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now, counts_here = 100.0, Counts()
    monkeypatch.setattr(key_counts, "time", SimpleNamespace(monotonic=lambda: now))
    charges = limit_reports.Charges(6)
    for step in range(600):  # ten a second: four here, four elsewhere, told each second and a half
        now += 0.25
        if step % 6 == 0:
            charges.add({"rate ann": 6})
        for key, count in charges.next().items():
            counts_here.charge(key, count, 10.0)
        assert counts_here.take("rate ann", 1, 10.0, 2.0) == 1
