"""The budget for replies: so many bytes at once, the others in their order, and nothing lost when one gives up."""

from __future__ import annotations

import asyncio

from helpers.counting import reached
from tidewire.limits import Limits
from tidewire.sessions.reply_budget import ReplyBudget


def test_replies_beyond_the_budget_wait_in_their_order() -> None:
    async def main() -> None:
        limits = Limits(reply_bytes=100, replies_bytes=250)
        budget = ReplyBudget.of(asyncio.get_running_loop())
        running: list[int] = []
        go_on = asyncio.Event()
        before = reached()["replies_bytes"]

        async def reply(number: int) -> None:
            async with budget.reserve(limits):
                running.append(number)
                await go_on.wait()

        tasks = [asyncio.create_task(reply(number)) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert running == [0, 1]
        assert reached()["replies_bytes"] == before + 3
        tasks[2].cancel()  # it waits
        tasks[0].cancel()  # it has begun
        await asyncio.wait([tasks[0], tasks[2]])
        await asyncio.sleep(0)
        assert running == [0, 1, 3]
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert running == [0, 1, 3, 4]
        async with asyncio.timeout(1), budget.reserve(Limits(reply_bytes=1_000, replies_bytes=250)):
            pass  # one larger than all has it alone

    asyncio.run(main())


def test_who_reads_little_does_not_wait_behind_all_who_read_much() -> None:
    async def main() -> None:
        limits = Limits(reply_bytes=100, replies_bytes=100)
        budget = ReplyBudget.of(asyncio.get_running_loop())
        order: list[str] = []

        async def reply(name: str) -> None:
            async with budget.reserve(limits, reads_much=name.startswith("much")):
                order.append(name)
                await asyncio.sleep(0)

        names = ["much 1", "much 2", "much 3", "much 4", "little 1", "little 2"]
        await asyncio.gather(*map(reply, names))
        assert order == ["much 1", "little 1", "much 2", "little 2", "much 3", "much 4"]

    asyncio.run(main())
