"""What is shown of a channel: nothing that was for who was there alone, and that does not count."""

from __future__ import annotations

import asyncio

import pytest

from engine.support import FailingBroker, connect, open_node, run
from tidewire.backends.memory import MemoryBroker
from tidewire.channel_options import ChannelOptions
from tidewire.history.shown_history import History
from tidewire.messages import Format, HistoryRequest, Position, PublishRequest
from tidewire.protocols.meta import PublicationMeta, is_history
from tidewire.retention import Retention

ALL = Retention(10_000)
HIDDEN = PublicationMeta(skip_history=True).encode()


async def publish(broker: MemoryBroker, *hidden: bool, channel: str = "a") -> None:
    for number, is_hidden in enumerate(hidden, 1):
        meta = HIDDEN if is_hidden else b""
        await broker.publish(PublishRequest(channel, b"%d" % number, Format.TEXT, meta=meta, retention=ALL))


def test_a_limit_counts_what_is_shown() -> None:
    async def main() -> None:
        broker = FailingBroker()
        await broker.start(lambda publications: None)
        # 1 and 2 are shown, then 250 are not, then 253
        await publish(broker, False, False, *[True] * 250, False)
        for options, offsets in (
            ({}, [1, 2, 253]),
            ({"limit": 0}, []),
            ({"limit": 2}, [1, 2]),
            ({"limit": 3}, [1, 2, 253]),
            ({"limit": 9}, [1, 2, 253]),
            ({"limit": 1, "reverse": True}, [253]),
            ({"limit": 2, "reverse": True}, [253, 2]),
            ({"limit": 9, "reverse": True}, [253, 2, 1]),
            ({"limit": 1, "since": Position(2, broker._epoch)}, [253]),
            ({"limit": 1, "since": Position(253, broker._epoch)}, []),
            ({"limit": 1, "since": Position(253, broker._epoch), "reverse": True}, [2]),
            ({"limit": 1, "since": Position(0, "other")}, []),
        ):
            page = await History(broker, is_history).read(HistoryRequest("a", ALL, **options))
            assert [publication.offset for publication in page.publications] == offsets, options
            assert page.top == Position(253, broker._epoch)
            assert page.complete == (options.get("since") != Position(0, "other"))
        broker.reads = 0
        await History(broker, is_history).read(HistoryRequest("a", ALL, limit=2))
        assert broker.reads == 1
        await broker.aclose()

    run(main())


def test_no_dialect_is_given_what_is_in_no_history() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            there = await connect(node, channel="a")
            await publish(broker, False, True, False, True)
            late = await connect(node)
            answer = await late.subscribe("a", since=Position(0, broker._epoch))
            assert answer.recovered
            assert late.offsets() == [1, 3]
            assert answer.position.offset == 4
            latest = await connect(node)
            await latest.subscribe("a", history=1)
            assert latest.offsets() == [3]
            assert there.offsets() == [1, 2, 3, 4]

    run(main())


def test_names_that_are_only_asked_for_are_not_remembered() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            known = len(broker._streams)
            for number in range(10):
                await node.broker.history(f"made up {number}")
                await node.broker.positions([f"made up {number}"])
                await node.broker.remove_history(f"made up {number}")
            assert len(broker._streams) == known

    run(main())


@pytest.mark.parametrize("reverse", [False, True])
def test_a_read_that_is_bounded_in_bytes_is_read_in_steps(reverse: bool) -> None:
    async def main() -> None:
        broker = FailingBroker()
        await broker.start(lambda publications: None)
        for _ in range(100):
            await broker.publish(PublishRequest("a", b"x" * 936, retention=ALL))  # it counts as 1,000
        history, order = History(broker, is_history), list(range(100, 0, -1)) if reverse else list(range(1, 101))
        for most, count in ((50_000, 50), (50_999, 50), (1, 1), (1_000_000, 100)):
            page = await history.read(HistoryRequest("a", ALL, reverse=reverse), most=most)
            assert [publication.offset for publication in page.publications] == order[:count]
            assert page.complete
        page = await history.read(HistoryRequest("a", ALL, limit=3, reverse=reverse), most=50_000)
        assert [publication.offset for publication in page.publications] == order[:3]
        broker.reads = 0
        await history.read(HistoryRequest("a", ALL, limit=10, reverse=reverse), most=50_000)
        assert broker.reads == 1
        await broker.aclose()

    run(main())


def test_a_recovery_reads_no_more_than_fits_and_gives_the_rest_in_pages() -> None:
    async def main() -> None:
        broker = FailingBroker()
        rules = {"a": ChannelOptions(history_size=1_000)}
        async with open_node(broker, rules=rules, reply_bytes=50_000) as node:
            for _ in range(100):
                await node.publish("a", b"x" * 936, Format.TEXT)  # it counts as 1,000
            epoch = broker._epoch
            clients = [await connect(node) for _ in range(4)]
            wishes = [0, 49, 50, 99]
            answers = await asyncio.gather(
                *[
                    client.subscribe("a", since=Position(since, epoch))
                    for client, since in zip(clients, wishes, strict=True)
                ]
            )
            assert [answer.recovered for answer in answers] == [True] * 4
            assert all(1 <= len(answer.publications) <= 50 for answer in answers)
            assert [client.offsets() for client in clients] == [list(range(since + 1, 101)) for since in wishes]

    run(main())
