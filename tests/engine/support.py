"""What the core's tests share: a node with fake links, a protocol that shows offsets, stores that fail on demand."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tidewire.backends.base import Broker, JoinResult, Presence
from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.channel_options import ChannelOptions
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscription import Subscription
from tidewire.errors import CommandError, NotPublished, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import (
    Announcement,
    Dropped,
    Format,
    HistoryPage,
    HistoryRequest,
    Member,
    Membership,
    Position,
    Publication,
    PublishRequest,
    Subscribed,
    WireMessage,
)
from tidewire.protocols.base import Protocol
from tidewire.protocols.meta import is_history
from tidewire.protocols.plain import PLAIN
from tidewire.rules.options_by_name import OptionsByName
from tidewire.testing import FakeLink, wait_until


def run(main: Coroutine[Any, Any, None], limit: float = 60.0) -> None:
    """Run a test, in so many seconds; no task may be left when it returns."""

    async def guarded() -> None:
        async with asyncio.timeout(limit):
            await main
        for _ in range(3):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"

    asyncio.run(guarded())


async def turns(count: int = 1) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class OffsetProtocol(Protocol[Any]):
    """Shows offsets: `["p", channel, offset, epoch, data]` and so on, as `shown` reads them."""

    def __init__(self, *, tells: bool = True) -> None:
        self._tells = tells

    def decode(self, message: str | bytes) -> Sequence[Any]:
        return ()

    def encode_publication(self, publication: Publication) -> WireMessage:
        p = publication
        return WireMessage(f"p {p.channel} {p.offset} {p.epoch} {p.data.decode()}".encode())

    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        position = reply.position
        count = len(reply.publications)
        head = f"s {reply.channel} {position.offset} {position.epoch} {reply.recovered} {count}"
        return [WireMessage(head.encode()), *(self.encode_publication(p) for p in reply.publications)]

    def encode_error(self, error: CommandError) -> WireMessage:
        return WireMessage(f"e {error.code}".encode())

    def encode_pong(self) -> WireMessage | None:
        return None

    def encode_dropped(self, push: Dropped) -> WireMessage:
        return WireMessage(f"d {push.channel} {push.count}".encode())

    def encode_insufficient(self, channel: str) -> WireMessage | None:
        return WireMessage(f"i {channel}".encode()) if self._tells else None


OFFSETS = OffsetProtocol()


class Client:
    """A connection over a fake link."""

    def __init__(self, node: Node, protocol: Protocol[Any], user: str, address: str, link: FakeLink | None) -> None:
        self.node = node
        self.link = link or FakeLink()
        self.connection = Connection(self.link, protocol, user=user, address=address, limits=node.limits)

    @property
    def shown(self) -> list[str]:
        """What was written to the client."""
        return [data.decode() for data in self.link.data]

    def offsets(self, channel: str = "a") -> list[int]:
        """The offsets of a channel that were written, of an OffsetProtocol."""
        return [int(text.split(" ")[2]) for text in self.shown if text.startswith(f"p {channel} ")]

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        return self.node.registry.subscriptions(self.connection)

    async def subscribe(self, channel: str = "a", **options: Any) -> Subscribed:
        """Subscribe; the fields of a Membership may be given by their names."""
        fields = {name: options.pop(name) for name in tuple(options) if name in Membership.__struct_fields__}
        return await self.node.subscribe(self.connection, channel, membership=Membership(**fields), **options)


async def connect(
    node: Node,
    protocol: Protocol[Any] = OFFSETS,
    *,
    user: str = "",
    address: str = "",
    link: FakeLink | None = None,
    channel: str = "",
) -> Client:
    client = Client(node, protocol, user, address, link)
    await node.attach(client.connection)
    if channel:
        await client.subscribe(channel)
    return client


@asynccontextmanager
async def open_node(
    broker: Broker | None = None,
    presence: Presence | None = None,
    *,
    rules: dict[str, ChannelOptions] | None = None,
    **limits: Any,
) -> AsyncIterator[Node]:
    """Open a node; when it closes, nothing of its connections may be left."""
    node = Node(
        broker or FailingBroker(),
        presence or FailingPresence(),
        limits=Limits(**limits),
        options=OptionsByName(rules),
        is_shown=is_history,
    )
    await node.start()
    try:
        yield node
    finally:
        await node.aclose()
    await turns(2)
    registry = node.registry
    assert not registry.connections
    assert not registry.users
    assert not registry.counts.own
    assert not [name for name, channel in registry.channels.items() if len(channel)]


async def publish(node: Node, *texts: str, channel: str = "a") -> None:
    for text in texts:
        await node.publish(channel, text.encode(), Format.TEXT)


class FailingBroker(MemoryBroker):
    """A memory broker that is away, loses deliveries, forgets, or waits, as a test wants."""

    waits = True

    def __init__(self) -> None:
        super().__init__()
        self.down: Exception | None = None
        #: Deliveries are lost on the way.
        self.loses = False
        self.delivered = 0
        #: What must be set before these answer.
        self.history_gate = _open_gate()
        self.subscribe_gate = _open_gate()
        self.publish_gate = _open_gate()
        self.reads = 0
        self.carried: list[str] = []

    def away(self, error: Exception | None = None) -> None:
        self.down = error or StoreUnavailable("the store is away for the test")

    def back(self) -> None:
        self.down = None

    def forget(self, epoch: str = "new") -> None:
        """Lose everything, and begin a new epoch."""
        self._streams.clear()
        self._epoch = epoch

    def _check(self) -> None:
        if self.down is not None:
            raise self.down

    async def start(self, deliver: Any, resumed: Any = None) -> None:
        def may_lose(publications: Sequence[Publication]) -> None:
            if not self.loses:
                self.delivered += len(publications)
                deliver(publications)

        await super().start(may_lose)
        self.deliver = deliver

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        return self.node.registry.subscriptions(self.connection)

    async def subscribe(self, channel: str) -> Position:
        await self.subscribe_gate.wait()
        self._check()
        self.carried.append(channel)
        return await super().subscribe(channel)

    async def unsubscribe(self, channel: str) -> None:
        self._check()
        await super().unsubscribe(channel)
        self.carried.remove(channel)

    async def publish(self, request: PublishRequest) -> Position:
        await self.publish_gate.wait()
        if self.down is not None:
            raise NotPublished(str(self.down)) if isinstance(self.down, StoreUnavailable) else self.down
        return await super().publish(request)

    async def read(self, request: HistoryRequest) -> HistoryPage:
        self._check()
        self.reads += 1
        page = await super().read(request)
        await self.history_gate.wait()
        self._check()
        return page

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        self._check()
        return await super().positions(channels)


class FailingPresence(MemoryPresence):
    """A memory presence that is away, loses its lease, or waits, as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.join_gate = _open_gate()
        self.leave_gate = _open_gate()
        self.lease_lost = False
        #: Leaves are taken, but the answer is lost: so many times.
        self.silent_leaves = 0

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable("presence is away for the test")

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        self._check()
        await self.join_gate.wait()
        return await super().join(channel, member, announcement)

    async def leave(self, channel: str, connection: str) -> bool:
        self._check()
        await self.leave_gate.wait()
        was_last = await super().leave(channel, connection)
        if self.silent_leaves:
            self.silent_leaves -= 1
            raise StoreUnavailable("the answer to a leave was lost for the test")
        return was_last

    async def touch(self) -> bool:
        self._check()
        if self.lease_lost:
            self.lease_lost = False
            self.forget_all()
            return False
        return True

    def users(self, channel: str = "a") -> list[str]:
        return [member.user for member in self.members_now(channel)]


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def cyclic_garbage() -> int:
    """Return how many objects the collector finds in cycles."""
    return gc.collect()


__all__ = (
    "OFFSETS",
    "PLAIN",
    "Client",
    "FailingBroker",
    "FailingPresence",
    "OffsetProtocol",
    "connect",
    "cyclic_garbage",
    "open_node",
    "publish",
    "run",
    "turns",
    "wait_until",
)
