"""A reader that takes over knows what its predecessor knew, however long ago that was."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import msgspec
import pytest

from tidewire import Event, Hub
from tidewire.channels import HAPPENED, watched
from tidewire.events import checkpoints, event_order, event_stream
from tidewire.events.event_kinds import KeptEvent
from tidewire.messages import Position
from tidewire.testing import wait_until

BOB = ["joined bob", "left bob"]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(checkpoints, "_INTERVAL", 20)
    monkeypatch.setattr(checkpoints, "_RECALLED", 10)
    monkeypatch.setattr(checkpoints, "_KEYS", 3)


def test_a_leader_knows_who_has_been_there_for_long(kept_url: str) -> None:
    async def main() -> None:
        long_there = [f"joined ann{number}" for number in range(10)]
        async with opened(kept_url) as (hub, told):
            await tell(hub, *long_there)
            for number in range(1, 31):
                await tell(hub, *BOB)
                await has_read(told, 10 + 2 * number)
            assert sorted(told) == sorted([*long_there, *(30 * BOB)])
            places = [msgspec.json.decode(one)["place"] for one in await kept_whole(hub, 3)]
            assert [len(list(parts)) for _, parts in itertools.groupby(places)] == [4, 4, 4]
            await are_saved(hub)
        async with opened(kept_url) as (hub, told):
            await tell(hub, *(f"joined ann{number} again" for number in range(10)), "joined ann3", "left ann3", *BOB)
            await has_read(told, 4)
            assert [one for one in told if "ann" in one] == ["left ann3", "joined ann3"]
            assert len(told) == 4

    asyncio.run(main())


def test_a_checkpoint_that_a_dying_worker_has_begun_counts_for_nothing() -> None:
    async def main() -> None:
        async with opened("memory://") as (hub, told):
            await tell(hub, *(f"joined ann{number}" for number in range(10)), *(8 * BOB))
            await has_read(told, 26)
            whole = await kept_whole(hub, 1)
            *_, last = await tell(hub, *(20 * BOB))
            await has_read(told, 66)
            channel = watched("order:on")
            await hub.node.broker.remove_history(channel)
            for data in (*whole, *whole[:2]):
                part = msgspec.json.decode(data)
                if data in whole[:2] and len(await kept(hub)) >= len(whole):
                    part |= {"place": str(last), "node": "another"}
                await hub.node.publish(channel, msgspec.json.encode(part), ephemeral=False)
            order = await checkpoints.Checkpoints(hub.node, "on").order_at(last)
            begun = sorted(one.key[2] for one in order.known() if one.last is not None and one.last.has_begun)
            assert begun == [f"ann{number}" for number in range(10)]

    asyncio.run(main())


def test_workers_that_end_soon_keep_checkpoints_together(kept_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them reads as many events as lie between two; after enough of them nobody knew the beginning."""
    monkeypatch.setattr(checkpoints, "_RECALLED", 30)

    async def main() -> None:
        for _ in range(6):
            async with opened(kept_url) as (hub, told):
                await tell(hub, *(5 * BOB))
                await has_read(told, 10)
                await are_saved(hub)
        async with opened(kept_url) as (hub, told):
            await tell(hub, "left ann", *BOB)  # who has never been there
            await has_read(told, 2)
            assert told == BOB

    asyncio.run(main())


def test_few_events_are_known_when_they_are_kept_no_more(kept_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are kept for two days; where fewer than lie between two checkpoints came meanwhile, there was none."""
    monkeypatch.setattr(checkpoints, "_SECONDS", 0.0)

    async def main() -> None:
        async with opened(kept_url) as (hub, told):
            await tell(hub, "joined ann", *BOB)
            await has_read(told, 3)
            await are_saved(hub)
            top = str((await hub.node.broker.history(HAPPENED, limit=0)).top)
            async with asyncio.timeout(10):
                while top not in [
                    part["place"] for one in await kept(hub) if (part := msgspec.json.decode(one))["is_last"]
                ]:
                    await asyncio.sleep(0.05)
            await hub.node.broker.remove_history(HAPPENED)
        async with opened(kept_url) as (hub, told):
            await tell(hub, "left cat", "joined ann again", *BOB)  # cat has never been there
            await has_read(told, 2)
            assert told == BOB

    asyncio.run(main())


def test_others_have_turns_while_a_checkpoint_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory never waits: all that is known of 50,000 users was written in one turn of the loop."""
    monkeypatch.setattr(checkpoints, "_RECALLED", 100)

    async def main() -> None:
        async with opened("memory://") as (hub, told):
            places = await tell(hub, *(f"joined ann{number}" for number in range(60)))
            await has_read(told, 60)
            kept_by = checkpoints.Checkpoints(hub.node, "other")
            order = await kept_by.order_at(Position.parse(str(places[-1])))
            keeping = asyncio.ensure_future(kept_by.passed(60, Position.parse(str(places[-1])), order))
            turns = 0
            while not keeping.done():
                turns += 1
                await asyncio.sleep(0)
            page = await hub.node.broker.history(watched("order:other"))
            assert turns >= len(page.publications) == 20

    asyncio.run(main())


def test_those_who_are_there_are_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_order, "_REMEMBERED", 5)

    async def main() -> None:
        async with opened("memory://") as (hub, told):
            others = [f"{kind} bob{number}" for number in range(10) for kind in ("joined", "left")]
            await tell(hub, "joined ann", *others, "joined ann again", "left ann", "left ann again")
            await has_read(told, 22)
            await tell(hub, *BOB)
            await has_read(told, 24)
            assert [one for one in told if "ann" in one] == ["joined ann", "left ann"]
            assert sorted(told) == sorted(["joined ann", *others, "left ann", *BOB])

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


async def tell(hub: Hub, *events: str) -> list[object]:
    positions: list[object] = []
    for event in events:
        kind, user, *again = event.split()
        data = msgspec.json.encode(KeptEvent(kind, "room:1", user, user, again=bool(again)))
        positions.append(await hub.node.publish(HAPPENED, data, ephemeral=False))
    return positions


async def has_read(found: list[str], number: int) -> None:
    await wait_until(lambda: len(found) >= number, 10, what=f"{number} events are read")


async def are_saved(hub: Hub) -> None:
    """Wait until the place is kept up to which handlers have been called, that is, all events."""
    async with asyncio.timeout(10):
        while True:
            top = (await hub.node.broker.history(HAPPENED, limit=0)).top
            page = await hub.node.broker.history(watched("done:on"), limit=1, reverse=True)
            if [one.data.decode() for one in page.publications] == [str(top)]:
                return
            await asyncio.sleep(0.05)


async def kept_whole(hub: Hub, number: int) -> list[bytes]:
    """Return the parts of so many checkpoints, as soon as those are whole."""
    async with asyncio.timeout(10):
        while sum(msgspec.json.decode(one)["is_last"] for one in await kept(hub)) < number:
            await asyncio.sleep(0.01)
    return await kept(hub)


async def kept(hub: Hub) -> list[bytes]:
    """Return the parts of the handlers' checkpoints."""
    page = await hub.node.broker.history(watched("order:on"), limit=1_000)
    return [one.data for one in page.publications]
