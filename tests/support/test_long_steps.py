"""Long steps: one in each turn of the loop, beside newcomers, with a rest after a long turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from helpers.turns import CallsByTurn
from tidewire.support import long_steps
from tidewire.support.admission import Admission
from tidewire.support.long_steps import LongSteps
from tidewire.testing import wait_until


def test_a_turn_begins_one_however_many_newcomers_come_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = CallsByTurn()

    class Work:
        def do(self) -> None:
            pass

    async def step(work: Work) -> None:
        await LongSteps.of(asyncio.get_running_loop()).wait()
        work.do()

    async def main() -> None:
        newcomers: list[None] = []
        gate, work = Admission.of(asyncio.get_running_loop()), Work()
        with begun.counting():
            for _ in range(40):
                gate.start(lambda: newcomers.append(None), 16)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(20):
                    tasks.create_task(step(work))
            await wait_until(lambda: len(newcomers) == 40)

    begun.watch(monkeypatch, Work, "do")
    asyncio.run(main())
    assert begun.total() == 20
    assert max(begun.values()) == 1


def test_a_long_turn_is_followed_by_as_long_a_rest() -> None:
    """Clients that are served meanwhile wait for one step, not for several one behind the other."""

    async def main() -> None:
        begun: list[float] = []

        async def step() -> None:
            await LongSteps.of(asyncio.get_running_loop()).wait()
            begun.append(time.perf_counter())
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            begun.append(time.perf_counter())

        await asyncio.gather(*(step() for _ in range(4)))
        rests = [begun[at + 1] - begun[at] for at in range(1, 7, 2)]
        assert min(rests) >= 0.019

    asyncio.run(main())


def test_who_is_cancelled_while_it_waits_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_steps, "_LONG", 0.0)  # every turn is followed by a rest

    async def main() -> None:
        steps = LongSteps.of(asyncio.get_running_loop())
        tasks = [asyncio.create_task(steps.wait()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        async with asyncio.timeout(20):
            await tasks[4]
            await wait_until(lambda: not steps._is_busy)
            await steps.wait()

    asyncio.run(main())
