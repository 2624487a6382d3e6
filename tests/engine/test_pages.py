"""A recovery that is larger than a reply: pages that the client takes, exact whatever happens between them."""

from __future__ import annotations

import asyncio

import pytest

from engine.support import FailingBroker, connect, open_node, publish, run, turns
from helpers.turns import CallsByTurn
from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.history.recovery_reader import RecoveryReader
from tidewire.messages import Position
from tidewire.testing import FakeLink, wait_until

LONG = {"a": ChannelOptions(history_size=5_000)}


async def _filled(node: Node, count: int, size: int = 100) -> str:
    """Publish so many, and return the channel's epoch."""
    await publish(node, *(str(n).ljust(size, ".") for n in range(count)))
    return (await node.broker.history("a", limit=0)).top.epoch


@pytest.mark.parametrize("reply_bytes", [1, 2_000, 100_000_000])
def test_all_of_a_long_history_comes_in_order(reply_bytes: int) -> None:
    async def main() -> None:
        async with open_node(rules=LONG, reply_bytes=reply_bytes) as node:
            epoch = await _filled(node, 350)
            client = await connect(node)
            reply = await client.subscribe(since=Position(0, epoch))
            assert reply.recovered is True
            await publish(node, "live")
            await wait_until(lambda: len(client.offsets()) >= 351)
            assert client.offsets() == list(range(1, 352))
            assert reply.position == Position(len(reply.publications), epoch)
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("reads", ["each", "shared"])
def test_large_pages_are_made_in_turns_of_their_own(monkeypatch: pytest.MonkeyPatch, reads: str) -> None:
    """Each takes milliseconds: made one behind the other, they would be a turn that others wait for."""
    made = CallsByTurn()

    async def main() -> None:
        async with open_node(rules=LONG) as node:
            epoch = await _filled(node, 1_000, 400)
            clients = [await connect(node) for _ in range(12)]
            places = [Position(0 if reads == "shared" else number, epoch) for number in range(len(clients))]
            with made.counting():
                await asyncio.gather(
                    *(client.subscribe(since=place) for client, place in zip(clients, places, strict=True))
                )
            for client, place in zip(clients, places, strict=True):
                await wait_until(lambda client=client: client.offsets()[-1:] == [1_000])  # type: ignore[misc]
                assert client.offsets() == list(range(place.offset + 1, 1_001))
                client.link.vanish()

    made.watch(monkeypatch, RecoveryReader, "_merged")
    run(main())
    assert made.total() >= 24
    assert max(made.values()) == 1


@pytest.mark.parametrize("wanted", [1, 10, 120, 350, 1_000])
def test_so_much_history_as_was_asked_for_comes_although_it_is_large(wanted: int) -> None:
    async def main() -> None:
        async with open_node(rules=LONG, reply_bytes=2_000) as node:
            await _filled(node, 350)
            client = await connect(node)
            reply = await client.subscribe(history=wanted)
            assert reply.recovered is None
            await publish(node, "live")
            count = min(wanted, 350)
            await wait_until(lambda: len(client.offsets()) >= count + 1)
            assert client.offsets() == list(range(351 - count, 352))
            client.link.vanish()

    run(main())


def test_what_is_published_between_two_pages_is_given_once() -> None:
    async def main() -> None:
        link = FakeLink(high_water=500)
        async with open_node(rules=LONG, reply_bytes=2_000, outbox_messages=10) as node:
            epoch = await _filled(node, 100)
            client = await connect(node, link=link)
            link.stall()
            subscribing = asyncio.create_task(client.subscribe(since=Position(0, epoch)))
            for _ in range(5):  # more than may wait behind a reply, each time
                for n in range(30):
                    await publish(node, f"live {n}")
                    await turns()
                assert len(client.subscriptions["a"].buffer or ()) <= 11
                link.take()
                link.stall()
                await turns(5)
            assert not subscribing.done()
            assert max(link.worst_backlog) < 5_000  # a page, and not all that waits for it
            link.take()
            assert (await subscribing).recovered is True
            await wait_until(lambda: len(client.offsets()) >= 250)
            assert client.offsets() == list(range(1, 251))
            client.link.vanish()

    run(main())


def test_what_is_trimmed_before_it_was_given_is_told() -> None:
    async def main() -> None:
        link = FakeLink(high_water=500)
        async with open_node(rules={"a": ChannelOptions(history_size=50)}, reply_bytes=2_000) as node:
            epoch = await _filled(node, 50)
            client = await connect(node, link=link)
            link.stall()
            subscribing = asyncio.create_task(client.subscribe(since=Position(0, epoch)))
            await wait_until(lambda: bool(client.offsets()))
            await _filled(node, 100)
            link.take()
            assert (await subscribing).recovered is True
            given = client.offsets()
            assert given == list(range(1, len(given) + 1))
            assert len(given) < 50
            assert client.shown[-1] == "i a"
            await publish(node, "live")
            await wait_until(lambda: client.offsets()[-1] == 151)
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("ending", ["leaves", "unsubscribes"])
def test_a_client_that_goes_between_two_pages_leaves_nothing(ending: str) -> None:
    async def main() -> None:
        link = FakeLink(high_water=500)
        async with open_node(rules=LONG, reply_bytes=2_000) as node:
            epoch = await _filled(node, 100)
            client = await connect(node, link=link)
            link.stall()
            subscribing = asyncio.create_task(client.subscribe(since=Position(0, epoch)))
            await wait_until(lambda: bool(client.offsets()))
            if ending == "leaves":
                link.vanish()
            else:
                await node.unsubscribe(client.connection, "a")
                link.take()
            await asyncio.wait([subscribing])
            assert subscribing.exception() is not None
            assert not node.registry.subscriptions(client.connection)
            link.vanish()

    run(main())


def test_many_that_return_to_different_places_share_their_reads() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker, rules=LONG, reply_bytes=5_000) as node:
            epoch = await _filled(node, 300)
            clients = [await connect(node) for _ in range(60)]
            broker.reads = 0
            places = [n * 5 for n in range(60)]
            await asyncio.gather(
                *(one.subscribe(since=Position(at, epoch)) for one, at in zip(clients, places, strict=True))
            )
            for client, place in zip(clients, places, strict=True):
                assert client.offsets() == list(range(place + 1, 301))
            assert broker.reads < 60 * 4
            for client in clients:
                client.link.vanish()

    run(main())
