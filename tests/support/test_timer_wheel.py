"""The one timer of all connections."""

from __future__ import annotations

import asyncio

import pytest

from tidewire.support.timer_wheel import Wheel
from tidewire.testing import wait_until


class Rider:
    notch = 0

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.turns = 0

    def turn(self, now: float) -> float | None:
        self.turns += 1
        if self.fails:
            raise ValueError("a bug in a heartbeat")
        return None if self.turns == 3 else 0.1


def test_a_heartbeat_that_fails_does_not_end_those_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        wheel = Wheel.of(asyncio.get_running_loop())
        riders = [Rider(fails=number % 2 == 0) for number in range(10)]
        for rider in riders:
            wheel.ride(rider, 0.1)
        await wait_until(lambda: sorted(rider.turns for rider in riders) == [1] * 5 + [3] * 5)

    asyncio.run(main())
    assert caplog.text.count("a bug in a heartbeat") >= 5
