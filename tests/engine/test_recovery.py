"""One read for many, narrowed to each; what is behind is read again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import StoreUnavailable
from tidewire.history import shared_reads
from tidewire.history.shared_reads import narrow
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication

from .support import FailingBroker, connect, open_node, publish, run, turns, wait_until


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 22), st.integers(0, 22))
def test_narrow_is_what_the_store_would_have_said(top: int, trimmed: int, asked: int, mine: int) -> None:
    def read(since: int) -> HistoryPage:
        """A store that still has what comes after `trimmed`."""
        found = tuple(Publication("a", n, n - 1, "e", 0.0, b"") for n in range(trimmed + 1, top + 1) if n > since)
        return HistoryPage(found, Position(top, "e"), complete=trimmed <= since <= top)

    trimmed, asked = min(trimmed, top), min(asked, mine)
    told, expected = narrow(read(asked), Position(mine, "e")), read(mine)
    assert told.top == expected.top
    assert told.complete == expected.complete
    if told.complete:
        assert told.publications == expected.publications
    assert not narrow(read(asked), Position(mine, "other")).complete


def test_all_who_return_at_once_cost_two_reads() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            await publish(node, *"123456789")
            keeper = await connect(node, channel="a")
            position = node.registry.channels["a"].position
            broker.reads = 0
            broker.history_gate.clear()
            clients = [await connect(node) for _ in range(50)]
            tasks = [
                asyncio.create_task(client.subscribe(since=Position(8 - index % 9, position.epoch)))
                for index, client in enumerate(clients)
            ]
            await turns(5)
            broker.history_gate.set()
            replies = await asyncio.gather(*tasks)
            assert broker.reads <= 2
            for index, (client, reply) in enumerate(zip(clients, replies, strict=True)):
                assert reply.recovered
                assert client.offsets() == list(range(9 - index % 9, 10))
            assert keeper.offsets() == []
            for client in (*clients, keeper):
                client.link.vanish()

    run(main())


def test_who_returns_a_moment_later_costs_no_read_unless_the_channel_has_gone_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(shared_reads, "_AGAIN_SECONDS", 3_600.0)
        broker = FailingBroker()
        async with open_node(broker) as node:
            await publish(node, *"12345")
            keeper = await connect(node, channel="a")
            epoch = node.registry.channels["a"].position.epoch

            async def come_back(offset: int) -> list[int]:
                client = await connect(node)
                reply = await client.subscribe(since=Position(offset, epoch))
                assert reply.recovered
                client.link.vanish()
                return client.offsets()

            broker.reads = 0
            assert [await come_back(2), await come_back(2), await come_back(4)] == [[3, 4, 5], [3, 4, 5], [5]]
            assert broker.reads == 1
            assert await come_back(1) == [2, 3, 4, 5]  # the read did not reach as far back
            assert broker.reads == 2
            await publish(node, "6")
            await wait_until(lambda: keeper.offsets() == [6])
            assert await come_back(4) == [5, 6]
            assert broker.reads == 3
            await node.remove_history("a")
            client = await connect(node)
            assert (await client.subscribe(since=Position(4, epoch))).recovered is False
            for one in (client, keeper):
                one.link.vanish()

    run(main())


def test_a_read_is_not_given_again_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(shared_reads, "_AGAIN_SECONDS", 0.001)
        broker = FailingBroker()
        async with open_node(broker) as node:
            await publish(node, *"123")
            keeper = await connect(node, channel="a")
            epoch = node.registry.channels["a"].position.epoch
            broker.reads = 0
            for reads in (1, 2):
                client = await connect(node)
                assert (await client.subscribe(since=Position(1, epoch))).recovered
                client.link.vanish()
                assert broker.reads == reads
                await wait_until(lambda: not node.recoveries._reader._reader._ended)
            keeper.link.vanish()

    run(main())


@pytest.mark.parametrize("offset", [-1, 1 << 63, 1 << 80])
def test_an_impossible_position_costs_the_others_nothing(offset: int) -> None:
    async def main() -> None:
        async with open_node() as node:
            await publish(node, *"123")
            client, other = await connect(node), await connect(node)
            epoch = (await other.subscribe()).position.epoch
            reply = await client.subscribe(since=Position(offset, epoch), history=2)
            assert reply.recovered is False
            assert client.offsets() == [2, 3]
            client.link.vanish()
            other.link.vanish()

    run(main())


def test_a_failed_read_fails_all_who_wait_and_nothing_is_followed() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            keeper = await connect(node, channel="a")
            clients = [await connect(node) for _ in range(3)]
            epoch = node.registry.channels["a"].position.epoch
            broker.history_gate.clear()
            tasks = [asyncio.create_task(client.subscribe(since=Position(0, epoch))) for client in clients]
            await turns(5)
            broker.away()
            broker.history_gate.set()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, StoreUnavailable)
            broker.back()
            assert len(node.registry.channels["a"]) == 1
            for client in clients:
                assert not client.subscriptions
                assert (await client.subscribe(since=Position(0, epoch))).recovered
                client.link.vanish()
            keeper.link.vanish()

    run(main())


def test_who_gives_up_waiting_leaves_the_read_to_the_others() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            keeper = await connect(node, channel="a")
            await publish(node, "1")
            first, second = await connect(node), await connect(node)
            epoch = node.registry.channels["a"].position.epoch
            broker.history_gate.clear()
            gone = asyncio.create_task(first.subscribe(since=Position(0, epoch)))
            await turns(3)
            stays = asyncio.create_task(second.subscribe(since=Position(0, epoch)))
            await turns(3)
            gone.cancel()
            await turns(3)
            broker.history_gate.set()
            assert (await stays).recovered
            assert gone.cancelled()
            assert not first.subscriptions
            for client in (first, second, keeper):
                client.link.vanish()

    run(main())


def test_history_behind_what_was_delivered_is_read_again() -> None:
    """A store that answers from a copy which lags."""

    class Lagging(FailingBroker):
        lag = 0

        async def read(self, request: HistoryRequest) -> HistoryPage:
            page = await super().read(request)
            if not self.lag:
                return page
            self.lag -= 1
            return HistoryPage((), Position(0, page.top.epoch), complete=True)

    async def main() -> None:
        broker = Lagging()
        async with open_node(broker) as node:
            keeper = await connect(node, channel="a")
            await publish(node, *"123")
            await wait_until(lambda: keeper.offsets() == [1, 2, 3])
            broker.lag = 3
            client = await connect(node)
            epoch = node.registry.channels["a"].position.epoch
            reply = await client.subscribe(since=Position(1, epoch))
            assert (reply.recovered, client.offsets()) == (True, [2, 3])
            broker.lag = 10_000
            late = await connect(node)
            with pytest.raises(StoreUnavailable, match="behind"):
                await late.subscribe(history=3)
            await wait_until(lambda: not late.subscriptions)
            for each in (client, keeper, late):
                each.link.vanish()

    run(main())
