"""Helpers of the contract suites: the store that they run on, and waiting for a condition with a limit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from tidewire.backends.base import Broker, Presence
from tidewire.messages import Publication, PublishRequest

__all__ = ("Node", "StoreUnderTest", "open_nodes", "open_presences", "wait_until")


class StoreUnderTest(msgspec.Struct, frozen=True, kw_only=True):
    """How a suite gets its brokers and presences; each call makes one more node on the same, fresh store."""

    broker: Callable[[], Broker]
    presence: Callable[[], Presence]
    #: Several nodes at once see the same publications and members.
    shared: bool
    #: Kept publications are there again after the last node has closed.
    lasting: bool
    #: Seconds within which the members of a dead node must be claimable, and a claim that was not forgotten again.
    departs_within: float = 12.0


async def wait_until(condition: Callable[[], bool | Awaitable[bool]], limit: float = 10.0, what: str = "") -> None:
    """Wait until a condition holds; raises AssertionError when it does not within `limit` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        if loop.time() > end:
            raise AssertionError(f"not within {limit:g} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.005)


class Node:
    """An open broker and the publications that it delivered."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.delivered: list[Publication] = []

    def offsets(self, channel: str) -> list[int]:
        """Return the offsets delivered in a channel, in the order of delivery."""
        return [publication.offset for publication in self.delivered if publication.channel == channel]

    async def publish(self, channel: str, data: bytes = b"{}", **options: Any) -> int:
        """Publish, and return the offset."""
        return (await self.broker.publish(PublishRequest(channel, data, **options))).offset


@asynccontextmanager
async def open_nodes(store: StoreUnderTest, count: int) -> AsyncIterator[list[Node]]:
    """Open brokers on the same store; of a store that is not shared, the same one many times."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for _ in range(count if store.shared else 1):
            node = Node(store.broker())
            await node.broker.start(node.delivered.extend)
            stack.push_async_callback(node.broker.aclose)
            nodes.append(node)
        yield nodes if store.shared else nodes * count


@asynccontextmanager
async def open_presences(store: StoreUnderTest, count: int) -> AsyncIterator[list[Presence]]:
    """Open presences on the same store, which touch their leases until they are closed."""
    async with AsyncExitStack() as stack:
        presences = [store.presence() for _ in range(count)]
        for number, presence in enumerate(presences):
            await presence.start(f"node-{number}")
            stack.push_async_callback(presence.aclose)
        yield presences
