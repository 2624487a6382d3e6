"""A real node over the memory broker, against plain lists: whatever happens, each link sees what it must, in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidewire.channel_options import ChannelOptions, SlowPolicy
from tidewire.engine import fanout
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, ConnectionClosed
from tidewire.messages import Format, Position, WireMessage
from tidewire.testing import FakeLink, wait_until

from .support import OFFSETS, Client, FailingBroker, OffsetProtocol, connect, open_node, run, turns

CHANNELS = {
    "disconnect": ChannelOptions(history_size=30),
    "latest": ChannelOptions(history_size=30, slow=SlowPolicy.LATEST),
    "drop": ChannelOptions(history_size=30, slow=SlowPolicy.DROP),
}
LINKS = 3


def weighted() -> Iterator[tuple[Any, ...]]:
    """Every step there is, the frequent ones more than once."""
    for channel in CHANNELS:
        yield from (("publish", channel, count) for count in (1, 1, 2, 2, 3, 5))
        yield from (("lose", channel, 1), ("repeat", channel, 3))
        for link in range(LINKS):
            yield from ((name, link, channel) for name in ("subscribe", "unsubscribe", "again", "recover", "history"))
    for link in range(LINKS):
        yield from ((name, link) for name in ("send", "send", "stall", "take", "take"))
    yield from (("turn", count) for count in (1, 1, 1, 1, 2, 2, 2, 3, 3))


actions = st.sampled_from(sorted(weighted()))
Step = tuple[Any, ...]


class World:
    """A node, some links, and the list of what was published in each channel."""

    def __init__(self, broker: FailingBroker, node: Node, clients: list[Client]) -> None:
        self.broker, self.node, self.clients = broker, node, clients
        self.published: dict[str, list[str]] = {name: [] for name in CHANNELS}
        self.left_at: dict[tuple[int, str], Position] = {}
        self.directs: list[list[str]] = [[] for _ in clients]
        self.tasks: set[asyncio.Task[Any]] = set()
        self.numbers = itertools.count(1)

    async def act(self, name: str, *arguments: Any) -> None:
        await getattr(self, name)(*arguments)

    async def publish(self, channel: str, count: int) -> None:
        for _ in range(count):
            text = f"{channel}-{next(self.numbers)}"
            self.published[channel].append(text)
            await self.node.publish(channel, text.encode(), Format.TEXT)

    async def lose(self, channel: str, count: int) -> None:
        self.broker.loses = True
        await self.publish(channel, count)
        self.broker.loses = False

    async def repeat(self, channel: str, count: int) -> None:
        page = await self.broker.history(channel, limit=count, reverse=True)
        self.broker.deliver(page.publications[::-1])

    async def turn(self, count: int) -> None:
        await turns(count)

    def begin(self, index: int, channel: str, **options: Any) -> None:
        client = self.clients[index]
        if not client.connection.is_closed and channel not in client.subscriptions:
            task = asyncio.create_task(self._subscribe(client, channel, options))
            self.tasks.add(task)

    async def _subscribe(self, client: Client, channel: str, options: dict[str, Any]) -> None:
        try:
            await client.subscribe(channel, **options)
        except ConnectionClosed:
            assert client.connection.is_closed
        except BadRequest as error:
            if "unsubscribe" not in str(error):
                raise

    async def subscribe(self, index: int, channel: str) -> None:
        self.begin(index, channel)

    async def history(self, index: int, channel: str) -> None:
        self.begin(index, channel, history=10)

    async def recover(self, index: int, channel: str) -> None:
        position = self.left_at.get((index, channel))
        if position is not None:
            self.begin(index, channel, since=position, history=5)

    async def unsubscribe(self, index: int, channel: str) -> None:
        client = self.clients[index]
        await self.node.unsubscribe(client.connection, channel)
        shown = last_shown(client, channel)
        if shown is not None:
            self.left_at[index, channel] = shown

    async def again(self, index: int, channel: str) -> None:
        await self.unsubscribe(index, channel)
        self.begin(index, channel)

    async def send(self, index: int) -> None:
        client = self.clients[index]
        text = f"direct {next(self.numbers)}"
        if not client.connection.is_closed:
            # what was delivered before, the link must have been given before
            pending = {
                name: subscription.live_after
                for name, subscription in client.subscriptions.items()
                if subscription.buffer is None and CHANNELS[name].slow is SlowPolicy.DISCONNECT
            }
            self.node.send(client.connection, WireMessage(text.encode()))
            self.directs[index].append(text)
            for name in pending:
                position = self.node.registry.channels[name].position
                subscription = client.subscriptions.get(name)
                if subscription is not None and not client.connection.is_closed:
                    assert subscription.live_after >= position.offset

    async def stall(self, index: int) -> None:
        self.clients[index].link.stall()

    async def take(self, index: int) -> None:
        self.clients[index].link.take()


def last_shown(client: Client, channel: str) -> Position | None:
    """What a client of this protocol knows of its position."""
    for text in reversed(client.shown):
        parts = text.split(" ")
        if parts[0] in "ps" and parts[1] == channel:
            return Position(int(parts[2]), parts[3])
    return None


class Reader:
    """What a client understands of one channel."""

    def __init__(self, published: list[str]) -> None:
        self.published = published
        self.position = 0
        self.holes = 0
        #: Of a reply that is being read: its position, and how many publications are still to come.
        self.top = self.left = 0
        #: It was told that a gap could not be filled.
        self.is_told = False

    def subscribed(self, offset: int, recovered: str, count: int) -> None:
        assert not self.left, "a reply is whole"
        if recovered == "True":
            assert offset - self.position == count, "a complete recovery is all that was missed"
        else:
            self.position = offset - count
        self.top, self.left = offset, count

    def pushed(self, offset: int, text: str) -> None:
        assert self.published[offset - 1] == text, "each offset shows what was published"
        assert offset > self.position, "at most once, in order, nothing older than the reply"
        hole = offset - self.position - 1
        if self.left:
            self.left -= 1
            assert not hole, "history has no hole"
            assert offset <= self.top
        self.holes += 0 if self.is_told else hole
        self.is_told = False
        self.position = offset


def judge(world: World, index: int) -> None:
    """Read what one link was given, as its client would."""
    client, directs = world.clients[index], list[str]()
    readers = {name: Reader(texts) for name, texts in world.published.items()}
    for text in client.shown:
        kind, *parts = text.split(" ")
        if kind == "direct":
            directs.append(text)
        elif kind == "s":
            readers[parts[0]].subscribed(int(parts[1]), parts[3], int(parts[4]))
        elif kind == "i":
            readers[parts[0]].is_told = True
        elif kind == "p":
            readers[parts[0]].pushed(int(parts[1]), parts[3])
    assert directs == world.directs[index][: len(directs)]
    assert client.connection.is_closed or directs == world.directs[index]
    assert not readers["disconnect"].holes, "nothing is missing unless the policy says so"
    told = sum(int(text.split(" ")[2]) for text in client.shown if text.startswith("d drop "))
    assert readers["drop"].holes <= told, "what was dropped was told"


async def play(steps: list[Step], turn_seconds: float) -> None:
    broker = FailingBroker()
    async with open_node(
        broker, rules=CHANNELS, turn_seconds=turn_seconds, outbox_messages=20, outbox_bytes=4_000
    ) as node:
        protocols = (OFFSETS, OFFSETS, OffsetProtocol())
        clients = [await connect(node, protocol, link=FakeLink(high_water=60)) for protocol in protocols]
        world = World(broker, node, clients)
        for channel in sorted(CHANNELS):
            for index in range(LINKS):
                await world.subscribe(index, channel)
        await turns(8)
        for step in steps:
            await world.act(*step)
        for client in clients:
            client.link.take()
        await asyncio.gather(*world.tasks)
        await node.channels.check_positions()
        await wait_until(settled(node), what="all is delivered")
        for client in clients:
            client.link.take()
        await turns(3)
        for index, client in enumerate(clients):
            judge(world, index)
            for name, subscription in client.subscriptions.items():
                assert subscription.live_after == len(world.published[name]), "the end is reached"
                last = last_shown(client, name)
                if CHANNELS[name].slow is not SlowPolicy.DROP:
                    assert last is not None
                    assert last.offset == len(world.published[name]), "the newest is shown"
            client.link.vanish()


def settled(node: Node) -> Callable[[], bool]:
    def is_settled() -> bool:
        return not any(
            channel.catching_up or channel.is_dirty or channel.buffering for channel in node.registry.channels.values()
        )

    return is_settled


@pytest.mark.parametrize("turn_seconds", [0.0, 0.005])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(actions, min_size=20, max_size=60))
def test_every_link_sees_what_it_must(monkeypatch: pytest.MonkeyPatch, steps: list[Step], turn_seconds: float) -> None:
    monkeypatch.setattr(fanout, "_STRIDE", 1)  # a turn of no time ends after each link
    run(play(steps, turn_seconds))


def test_the_judge_sees_faults() -> None:
    """The model itself: what it must not let pass."""

    async def main() -> None:
        async with open_node(rules=CHANNELS) as node:
            for wrong in (
                ["s disconnect 1 e None 0", "p disconnect 1 e a"],  # older than its reply
                ["s disconnect 0 e None 0", "p disconnect 2 e b"],  # a hole
                ["s disconnect 0 e None 0", "p disconnect 1 e a", "p disconnect 1 e a"],  # twice
                ["s disconnect 0 e None 0", "p disconnect 2 e b", "p disconnect 1 e a"],  # out of order
                ["s disconnect 2 e True 1", "p disconnect 2 e b"],  # not all that was missed
                ["s disconnect 2 e None 2", "p disconnect 2 e b"],  # a reply with a hole
                ["s drop 0 e None 0", "p drop 2 e b"],  # not told
                ["direct 2", "direct 1"],
            ):
                client = await connect(node)
                world = World(FailingBroker(), node, [client])
                world.published = {name: ["a", "b"] for name in CHANNELS}
                world.directs = [["direct 1", "direct 2"]] if wrong[0].startswith("direct") else [[]]
                client.link.sent = [WireMessage(text.encode()) for text in wrong]
                try:
                    judge(world, 0)
                except AssertionError:
                    pass
                else:
                    raise AssertionError(f"the judge lets pass: {wrong}")
                client.link.vanish()

    run(main())
