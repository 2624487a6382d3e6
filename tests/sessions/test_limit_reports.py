"""What a network and a user cost on one machine counts on the others, and is forgotten when it tells no more."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from helpers.hubs import run
from helpers.stores import start_redis
from tidewire import Hub
from tidewire.hub import core
from tidewire.sessions import limit_reports
from tidewire.testing import wait_until

NETWORK, USER = "192.0.2.7", "rate ann"
#: Messages of a user a second, and at once.
RATE, BURST = 1.0, 200.0


def test_machines_tell_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = itertools.count()
    monkeypatch.setattr(core, "shared_name", lambda url: f"{url} of machine {next(machines)}")
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
            assert (here.take(USER, 120, RATE, BURST), here.add("a mark")) == (120, True)
            await wait_until(lambda: "a mark" in there.elsewhere)
            assert 80 <= there.take(USER, 200, RATE, BURST) < 120
            here.remove("a mark")

    with start_redis(tmp_path / "redis") as redis:
        run(main(f"redis://127.0.0.1:{redis.port}"))
