"""The one timer of all connections."""

from __future__ import annotations

import asyncio

import pytest

from tidewire.support.timer_wheel import TimerWheel
from tidewire.testing import wait_until


class Heartbeat:
    timer_slot = 0

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.calls = 0

    def on_timer(self, now: float) -> float | None:
        self.calls += 1
        if self.fails:
            raise ValueError("a bug in a heartbeat")
        return None if self.calls == 3 else 0.1


def test_a_heartbeat_that_fails_does_not_end_those_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        wheel = TimerWheel.of(asyncio.get_running_loop())
        heartbeats = [Heartbeat(fails=number % 2 == 0) for number in range(10)]
        for heartbeat in heartbeats:
            wheel.schedule(heartbeat, 0.1)
        await wait_until(lambda: sorted(heartbeat.calls for heartbeat in heartbeats) == [1] * 5 + [3] * 5)

    asyncio.run(main())
    assert caplog.text.count("a bug in a heartbeat") >= 5
