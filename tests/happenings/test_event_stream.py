"""What a reader of events yields that comes after another one."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from tidewire import Hub
from tidewire.channels import HAPPENED
from tidewire.happenings.event import Happening
from tidewire.happenings.event_stream import events_of
from tidewire.messages import Position


def test_a_second_end_is_told_by_no_later_reader(url: str) -> None:
    """The worker was killed between telling the end and removing its member, and the leader changed between."""

    async def main() -> None:
        async with Hub(url) as hub:
            _, first = await tell(hub, "joined ann", "left ann")
            await tell(hub, "left ann", "joined ann", "left ann")
            assert await read(hub, first, 2) == ["joined ann", "left ann"]

    asyncio.run(main())


def test_a_beginning_that_waits_for_its_end_outlives_its_reader() -> None:
    async def main() -> None:
        async with Hub() as hub:
            _, second, third = await tell(hub, "joined ann", "joined ann", "joined bob")
            await tell(hub, "left ann")
            assert await read(hub, second, 3) == ["joined bob", "left ann", "joined ann"]
            assert await read(hub, third, 2) == ["left ann", "joined ann"]

    asyncio.run(main())


async def tell(hub: Hub, *events: str) -> list[Position]:
    positions = []
    for event in events:
        kind, user = event.split()
        data = msgspec.json.encode(Happening(kind, "room:1", user, user))
        positions.append(await hub.node.publish(HAPPENED, data, ephemeral=False))
    return positions


async def read(hub: Hub, since: Position, number: int) -> list[str]:
    """Return what a new reader yields, at most `number` and one more."""
    found: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.4), contextlib.aclosing(events_of(hub.node, since, asyncio.Event())) as stream:
            async for _, event in stream:
                found.append(f"{event.kind} {event.user}")
                if len(found) > number:
                    break
    return found
