"""The contract of a broker as a test suite (base.Broker has it in words)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tidewire.errors import NotPublished
from tidewire.messages import EphemeralPublication, Format, HistoryPage, Position, Publication, PublishRequest
from tidewire.retention import Retention
from tidewire.testing.contract_store import Node, StoreUnderTest, open_nodes, wait_until

__all__ = ("BrokerContract",)

#: A retention that shows everything.
ALL = Retention(1_000_000, 1e9)


def _offsets(page: HistoryPage) -> list[int]:
    return [publication.offset for publication in page.publications]


def _is_chain(publications: Sequence[Publication]) -> bool:
    return all(after.previous == before.offset for before, after in pairwise(publications))


class BrokerContract:
    """The duties of every broker; `store` is a fixture of the subclass or its module."""

    def test_offsets_grow_and_name_the_one_before(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                start = await node.broker.subscribe("a")
                positions = [await node.broker.publish(PublishRequest("a", b"%d" % n)) for n in range(5)]
                assert start == Position(0, positions[0].epoch)
                assert [position.offset for position in positions] == [1, 2, 3, 4, 5]
                assert {position.epoch for position in positions} == {start.epoch}
                await wait_until(lambda: len(node.delivered) == 5)
                assert [p.data for p in node.delivered] == [b"0", b"1", b"2", b"3", b"4"]
                assert [p.previous for p in node.delivered] == [0, 1, 2, 3, 4]

        asyncio.run(run())

    def test_what_is_published_arrives_and_reads_as_it_was(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            requests = [
                PublishRequest("raum/ü", "grüße".encode(), Format.TEXT, meta=b'{"a":1}', retention=ALL),
                PublishRequest("raum/ü", bytes(range(256)), Format.BINARY, retention=ALL),
                PublishRequest("raum/ü", b"", Format.JSON, retention=ALL),
            ]
            async with open_nodes(store, 1) as (node,):
                await node.broker.subscribe("raum/ü")
                for request in requests:
                    await node.broker.publish(request)
                await wait_until(lambda: len(node.delivered) == 3)
                page = await node.broker.history("raum/ü")
                assert list(page.publications) == node.delivered
                for request, publication in zip(requests, page.publications, strict=True):
                    kept = (publication.channel, publication.data, publication.format, publication.meta)
                    assert kept == (request.channel, request.data, request.format, request.meta)

        asyncio.run(run())

    def test_only_subscribed_channels_are_delivered(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                await node.broker.subscribe("a")
                assert await node.broker.subscribe("a") == await node.broker.subscribe("a")
                await node.publish("b")
                first = await node.publish("a")
                await wait_until(lambda: node.offsets("a") == [first])
                await node.broker.unsubscribe("a")
                await node.broker.unsubscribe("never")
                await node.broker.subscribe("b")
                await node.publish("a")
                second = await node.publish("b")
                await wait_until(lambda: node.offsets("b") == [second])
                assert node.offsets("a") == [first]

        asyncio.run(run())

    def test_concurrent_publishes_keep_the_order_in_which_they_were_entered(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                await node.broker.subscribe("a")
                offsets = await asyncio.gather(*(node.publish("a", b"%d" % n) for n in range(500)))
                assert offsets == list(range(1, 501))
                await wait_until(lambda: len(node.delivered) == 500)
                assert [p.data for p in node.delivered] == [b"%d" % n for n in range(500)]
                assert _is_chain(node.delivered)

        asyncio.run(run())

    def test_nodes_deliver_the_same_order_once_each(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 2) as nodes:
                for node in nodes:
                    await node.broker.subscribe("a")
                await asyncio.gather(*(nodes[n % 2].publish("a", b"%d" % n) for n in range(300)))
                for node in nodes:
                    await wait_until(lambda node=node: len(node.delivered) >= 300, what="all arrive")  # type: ignore[misc]
                    assert node.offsets("a") == list(range(1, 301))
                assert nodes[0].delivered == nodes[1].delivered

        asyncio.run(run())

    def test_everything_after_the_position_of_a_subscribe_arrives(self, store: StoreUnderTest) -> None:
        async def publish(node: Node, done: asyncio.Event) -> None:
            while not done.is_set():
                await node.publish("a", retention=ALL)

        async def run() -> None:
            async with open_nodes(store, 2) as (reader, writer):
                done = asyncio.Event()
                publishing = asyncio.create_task(publish(writer, done))
                for _ in range(20):
                    reader.delivered.clear()
                    position = await reader.broker.subscribe("a")
                    top = await reader.publish("a", retention=ALL)
                    await wait_until(lambda top=top: top in reader.offsets("a"), what="own arrives")  # type: ignore[misc]
                    after = [offset for offset in reader.offsets("a") if offset > position.offset]
                    assert after[: top - position.offset] == list(range(position.offset + 1, top + 1))
                    await reader.broker.unsubscribe("a")
                done.set()
                await publishing

        asyncio.run(run())

    def test_what_nobody_keeps_reaches_the_other_nodes_and_leaves_no_trace(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            sent = [
                EphemeralPublication("raum/ü", 0, 0, "", 12.5, b"%d" % n, Format.TEXT, b'{"a":1}', "c-1")
                for n in range(40)
            ]
            sent.append(EphemeralPublication("raum/ü", 0, 0, "", 13.5, bytes(range(256)) * 250, Format.BINARY))
            async with open_nodes(store, 2) as (here, there):
                for node in (here, there):
                    await node.broker.subscribe("raum/ü")
                top = await here.publish("raum/ü")
                here.broker.relay(sent[:20])
                here.broker.relay(sent[20:])
                if not store.shared:
                    return
                await wait_until(lambda: len(there.delivered) == 1 + len(sent), what="all arrive")
                assert [one for one in there.delivered if not one.offset] == sent  # in their order
                assert await there.publish("raum/ü") == top + 1
                await wait_until(lambda: here.offsets("raum/ü") == [top, top + 1], what="none comes back to its node")
                page = await here.broker.history("raum/ü")
                assert (_offsets(page), page.complete) == ([top, top + 1], True)

        asyncio.run(run())

    def test_a_key_is_kept_once_within_its_window(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                await node.broker.subscribe("a")
                assert await asyncio.gather(*(node.publish("a", key="k") for _ in range(10))) == [1] * 10
                assert await node.publish("a", key="other") == 2
                await node.broker.subscribe("b")
                assert await node.publish("b", key="k") == await node.publish("b", key="k")
                await wait_until(lambda: len(node.offsets("b")) == 1)
                assert await node.publish("a", key="k") == 1
                last = await node.publish("a")
                await wait_until(lambda: last in node.offsets("a"))
                assert node.offsets("a") == [1, 2, last]

        asyncio.run(run())

    def test_a_key_is_forgotten_after_its_window(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                assert await node.publish("a", key="k", key_age=0.2) == 1

                async def is_new() -> bool:
                    return await node.publish("a", key="k", key_age=0.2) == 2

                await wait_until(is_new)

        asyncio.run(run())

    def test_history_pages_in_both_directions(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                for _ in range(10):
                    await node.publish("a", retention=ALL)
                history = node.broker.history
                everything = await history("a")
                top = everything.top
                assert _offsets(everything) == list(range(1, 11))
                assert _is_chain(everything.publications)
                assert top.offset == 10
                assert _offsets(await history("a", limit=3)) == [1, 2, 3]
                assert _offsets(await history("a", since=Position(4, top.epoch), limit=3)) == [5, 6, 7]
                assert _offsets(await history("a", since=Position(9, top.epoch))) == [10]
                assert _offsets(await history("a", reverse=True, limit=3)) == [10, 9, 8]
                assert _offsets(await history("a", reverse=True, since=Position(4, top.epoch))) == [3, 2, 1]
                empty = await history("a", limit=0)
                assert (empty.publications, empty.top) == ((), top)

        asyncio.run(run())

    def test_history_says_whether_it_is_complete(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                for _ in range(10):
                    await node.publish("a", retention=ALL)
                history = node.broker.history
                epoch = (await history("a", limit=0)).top.epoch

                async def is_complete(offset: int, size: int, epoch: str = epoch) -> bool:
                    page = await history("a", since=Position(offset, epoch), retention=Retention(size, 1e9))
                    return page.complete

                assert (await history("a")).complete
                assert await is_complete(0, 10)
                assert not await is_complete(0, 9)
                assert await is_complete(5, 5)
                assert not await is_complete(5, 4)
                assert await is_complete(10, 0)
                assert not await is_complete(11, 10)
                assert not await is_complete(5, 10, "another")
                assert (await history("a", since=Position(5, "another"))).publications == ()

        asyncio.run(run())

    def test_history_shows_what_retention_shows(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                for _ in range(5):
                    await node.publish("a", retention=ALL)
                page = await node.broker.history("a", retention=Retention(2, 1e9))
                assert _offsets(page) == [4, 5]
                assert _offsets(await node.broker.history("a", retention=Retention(0, 1e9))) == []
                newest = await node.broker.history("a", retention=Retention(3, 1e9), reverse=True, limit=2)
                assert _offsets(newest) == [5, 4]

                async def is_aged() -> bool:
                    return not (await node.broker.history("a", retention=Retention(5, 0.2))).publications

                await wait_until(is_aged)
                aged = await node.broker.history("a", since=Position(0, page.top.epoch), retention=Retention(5, 0.2))
                assert aged == HistoryPage((), page.top, complete=False)

        asyncio.run(run())

    def test_a_removed_history_leaves_the_position(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                await node.broker.remove_history("never")
                for _ in range(3):
                    await node.publish("a", retention=ALL)
                await node.broker.remove_history("a")
                page = await node.broker.history("a")
                assert (page.publications, page.top.offset) == ((), 3)
                assert not (await node.broker.history("a", since=Position(2, page.top.epoch))).complete
                fourth = await node.publish("a", retention=ALL)
                assert fourth > 3
                after = await node.broker.history("a", since=page.top)
                assert (_offsets(after), after.complete) == ([fourth], True)

        asyncio.run(run())

    def test_positions_are_the_tops(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 2) as (one, other):
                a = await one.broker.publish(PublishRequest("a", b""))
                b = await other.broker.publish(PublishRequest("b", b""))
                nobody = await one.broker.subscribe("nobody")
                names = ["a", "b", "nobody", *(f"more {n}" for n in range(2_000))]
                positions = await other.broker.positions(names)
                assert list(positions) == names
                assert (positions["a"], positions["b"], positions["nobody"]) == (a, b, nobody)
                assert (await other.broker.history("nobody")).top == nobody
                assert (await other.broker.publish(PublishRequest("nobody", b""))).epoch == nobody.epoch

        asyncio.run(run())

    def test_a_cancelled_publish_breaks_nothing(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                await node.broker.subscribe("a")
                tasks = [asyncio.create_task(node.publish("a")) for _ in range(50)]
                await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                last = await node.publish("a")
                await wait_until(lambda: node.offsets("a")[-1:] == [last])
                assert node.offsets("a") == list(range(1, last + 1))

        asyncio.run(run())

    def test_starting_and_closing_twice_is_harmless(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            broker = store.broker()
            with pytest.raises(NotPublished):
                await broker.publish(PublishRequest("a", b""))
            delivered: list[Publication] = []
            await broker.start(delivered.extend)
            await broker.start(delivered.extend)
            await broker.subscribe("a")
            accepted = [asyncio.ensure_future(broker.publish(PublishRequest("a", b""))) for _ in range(100)]
            await asyncio.sleep(0)
            await broker.aclose()
            await broker.aclose()
            assert [position.offset for position in await asyncio.gather(*accepted)] == list(range(1, 101))
            assert len(delivered) == 100
            with pytest.raises(NotPublished):
                await broker.publish(PublishRequest("a", b""))

        asyncio.run(run())

    def test_a_lasting_store_goes_on_where_it_was(self, store: StoreUnderTest) -> None:
        if not store.lasting:
            return

        async def run() -> None:
            async with open_nodes(store, 1) as (node,):
                await node.publish("a", key="k", retention=ALL)
                await node.publish("a", retention=ALL)
                before = await node.broker.history("a")
            async with open_nodes(store, 1) as (node,):
                assert await node.broker.history("a") == before
                assert await node.broker.subscribe("a") == before.top
                assert await node.publish("a", key="k") == 1
                assert await node.publish("a") == 3
                await wait_until(lambda: node.offsets("a") == [3])

        asyncio.run(run())
