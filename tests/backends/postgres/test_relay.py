"""Who waits for publications that nobody keeps is told when they have been sent, or cannot be, and not before."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tidewire.backends.postgres import relay as module
from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.relay import Relay
from tidewire.messages import EphemeralPublication


class FakePool:
    """A server that answers each statement when it is told to."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def fetch(self, *_: object) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        await answer


def publications(count: int, data: Any = b"1") -> list[EphemeralPublication]:
    return [EphemeralPublication("a", 0, 0, "", 1.0, data) for _ in range(count)]


def test_those_dropped_behind_a_statement_do_not_count_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 5)

    async def scenario() -> None:
        pool = FakePool()
        relay = Relay(cast(Pool, pool), lambda _: None)
        relay.put(publications(3))
        waiting, sending = asyncio.create_task(relay.sent()), asyncio.create_task(relay.relay())
        first = await asyncio.wait_for(pool.asked.get(), 10)
        relay.put(publications(20))  # 15 of them are dropped
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done(), "the statement has not been answered"
        first.set_result(None)
        await asyncio.wait_for(waiting, 10)
        last = asyncio.create_task(relay.sent())
        (await asyncio.wait_for(pool.asked.get(), 10)).set_result(None)
        await asyncio.wait_for(last, 10)
        sending.cancel()

    asyncio.run(scenario())


def test_a_publication_that_cannot_be_packed_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        relay = Relay(cast(Pool, FakePool()), lambda _: None)
        relay.put(publications(2, object()))
        waiting = asyncio.create_task(relay.sent())
        with pytest.raises(TypeError):
            await relay.relay()
        await asyncio.wait_for(waiting, 10)

    asyncio.run(scenario())
