"""What is shown of a channel: nothing that was for who was there alone, and that does not count."""

from __future__ import annotations

from engine.support import FailingBroker, connect, open_node, run
from tidewire.backends.memory import MemoryBroker
from tidewire.engine.history import History
from tidewire.messages import Format, Position, PublishRequest, Retention
from tidewire.protocols.meta import PublicationMeta, is_history

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
            page = await History(broker, is_history).read("a", retention=ALL, **options)
            assert [publication.offset for publication in page.publications] == offsets, options
            assert page.top == Position(253, broker._epoch)
            assert page.complete == (options.get("since") != Position(0, "other"))
        broker.reads = 0
        await History(broker, is_history).read("a", retention=ALL, limit=2)
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
