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


def test_a_heartbeat_that_is_scheduled_again_is_called_once_at_the_last_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wheel = TimerWheel.of(loop)
        for before, last in ((0.3, 0.3), (5.0, 0.1), (0.01, 0.6)):
            heartbeat = Heartbeat(fails=True)
            wheel.schedule(heartbeat, before)
            for _ in range(3):
                wheel.schedule(heartbeat, last)
            began = loop.time()
            await wait_until(lambda heartbeat=heartbeat: heartbeat.calls)  # type: ignore[misc]
            assert loop.time() - began > last - 0.3
            await asyncio.sleep(0.3)
            assert heartbeat.calls == 1

    asyncio.run(main())
