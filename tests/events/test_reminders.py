"""A reader that takes over knows what began before the events that it recalls."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest

from tidewire import Event, Hub
from tidewire.channels import HAPPENED
from tidewire.events import event_order, event_stream
from tidewire.events.event_kinds import KeptEvent
from tidewire.events.event_stream import events_of
from tidewire.testing import wait_until


def test_a_leader_knows_who_has_been_there_for_long(kept_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers and another reader read at once, and neither yields a reminder; then another node goes on."""
    monkeypatch.setattr(event_stream, "_RECALLED", 60)
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(event_order, "_REMINDED", 20)

    async def main() -> None:
        async with opened(kept_url) as (hub, told):
            also: list[str] = []
            reading = asyncio.create_task(read(hub, also))
            await tell(hub, "joined ann")
            for number in range(1, 41):
                await tell(hub, "joined bob", "left bob", "joined bob", "left bob")
                await has_read(told, 1 + 4 * number)
                await has_read(also, 1 + 4 * number)
            assert told == also == ["joined ann", *(80 * ["joined bob", "left bob"])]
            reminded = [user for user, is_reminder in await stream(hub) if is_reminder]
            assert set(reminded) == {"ann"}
            assert 4 <= len(reminded) <= 9, "each reminder is told by one of the readers"
            reading.cancel()
        async with opened(kept_url) as (hub, told):
            await tell(hub, "joined ann", "left ann")
            await wait_until(lambda: told[-2:] == ["left ann", "joined ann"], 20, what="the beginning follows its end")
            assert "joined ann" not in told[:-1]

    asyncio.run(main())


def test_there_are_no_more_reminders_than_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_order, "_REMINDED", 20)

    async def main() -> None:
        async with opened("memory://") as (hub, told):
            await tell(hub, *(f"joined {number}" for number in range(200)))
            for number in range(1, 51):
                await tell(hub, "joined bob", "left bob")
                await has_read(told, 200 + 2 * number)
            kept = Counter(is_reminder for _, is_reminder in await stream(hub))
            assert kept[False] == 300
            assert 100 < kept[True] <= 300

    asyncio.run(main())


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Hub, list[str]]]:
    """Open a hub; give it and what its handlers are told."""
    told: list[str] = []

    async def note(event: Event) -> None:
        told.append(f"{event.kind} {event.user}")

    hub = Hub(url)
    hub.on("joined")(note)
    hub.on("left")(note)
    async with hub:
        yield hub, told


async def tell(hub: Hub, *events: str) -> None:
    for event in events:
        kind, user = event.split()
        await hub.node.publish(HAPPENED, msgspec.json.encode(KeptEvent(kind, "room:1", user, user)), ephemeral=False)


async def has_read(found: list[str], number: int) -> None:
    await wait_until(lambda: len(found) >= number, 10, what=f"{number} events are read")


async def stream(hub: Hub) -> list[tuple[str, bool]]:
    """Return whose each event in the stream is, and whether it is a reminder."""
    page = await hub.node.broker.history(HAPPENED, limit=1_000)
    found = [msgspec.json.decode(one.data, type=KeptEvent) for one in page.publications]
    return [(one.user, bool(one.known)) for one in found]


async def read(hub: Hub, found: list[str]) -> None:
    async for _, event in events_of(hub.node, None, asyncio.Event()):
        found.append(f"{event.kind} {event.user}")
