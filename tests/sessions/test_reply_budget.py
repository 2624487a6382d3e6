"""The budget for replies: so many bytes at once, the others in their order, and nothing lost when one gives up."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from engine.support import connect, open_node
from helpers.counting import reached
from sessions.centrifuge.support import connect as connect_session
from sessions.centrifuge.support import open_sessions
from tidewire.limits import Limits
from tidewire.sessions.command_queue import CommandQueue
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


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets, of each reply, whether its client counts as one that reads much."""
    rows: list[bool] = []
    reserve = ReplyBudget.reserve

    def noted(self: ReplyBudget, limits: Limits, *, reads_much: bool) -> AbstractAsyncContextManager[None]:
        rows.append(reads_much)
        return reserve(self, limits, reads_much=reads_much)

    monkeypatch.setattr(ReplyBudget, "reserve", noted)
    return rows


@pytest.mark.parametrize(
    ("method", "asked", "reads_much"),
    [
        ("history", {"limit": -1}, True),
        ("history", {"limit": 500}, True),
        ("history", {"limit": 10}, False),
        ("history", {}, False),
        ("presence", {}, True),
        ("presence_stats", {}, False),
    ],
)
def test_the_first_reply_to_a_client_is_judged_by_its_request(
    method: str, asked: dict[str, Any], reads_much: bool, rows: list[bool]
) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect_session(node)
            await client.ask(method, channel="recovery:a", **asked)
            assert rows == [reads_much]

    asyncio.run(main())


def test_several_replies_tell_who_reads_much(rows: list[bool]) -> None:
    async def rows_of(*reads: tuple[bool, int]) -> list[bool]:
        """Return whether each of these reads counted as much: whether it might be large, and its bytes."""
        rows.clear()
        async with open_node() as node:
            queue = CommandQueue(node, (await connect(node)).connection, handle)
            for may_be_large, size in reads:
                await queue.read_in_turn(partial(asyncio.sleep, 0, size), may_be_large=may_be_large)
        return list(rows)

    async def handle(message: str | bytes) -> None:
        pass

    async def main() -> None:
        much, little, large, small, error = True, False, 100_000, 100, 0
        assert await rows_of((True, error), (True, small), (True, small)) == [much, much, little]
        assert await rows_of((False, small), (False, large), (False, small)) == [little, little, much]
        alternating = [(True, large), (False, small), (True, error), (False, error)] * 3
        assert await rows_of(*alternating) == [much] * 12
        assert await rows_of((True, large), *[(True, small)] * 4) == [much, much, much, much, little]

    asyncio.run(main())
