"""What a reader of events yields that comes after another one."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from tidewire import Hub
from tidewire.channels import HAPPENED, watched
from tidewire.events import checkpoints, event_order, event_stream
from tidewire.events.event_kinds import KeptEvent
from tidewire.events.event_stream import events_of
from tidewire.messages import Member, Position


def test_a_second_end_is_told_by_no_later_reader() -> None:
    """The worker was killed between telling the end and removing its member, and the leader changed between."""

    async def main() -> None:
        async with Hub() as hub:
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


def test_an_end_that_nobody_tells_is_told_by_the_reader_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user is back before the members of a killed worker are claimed: it has begun twice, and ends once."""
    monkeypatch.setattr(event_order, "_PATIENCE", 0.2)
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 0.05)

    async def main() -> None:
        async with Hub(url) as hub:
            start, *_ = await tell(hub, "joined ann", "joined bob", "joined ann", "left ann", "joined bob")
            await hub.node.presence.join(watched("joined:room:1"), Member("c1", "bob"))
            first, again = await asyncio.gather(read(hub, start, 8, 1.5), read(hub, start, 8, 1.5))
            assert [event for event in first if "ann" in event] == ["left ann", "joined ann", "left ann"]
            assert [event for event in first if "bob" in event] == ["joined bob", "left bob", "joined bob"]
            assert again == first
            assert await read(hub, start, 8) == first  # whoever reads later is told the same

    asyncio.run(main())


def test_a_missing_end_is_told_while_others_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy stream always has a next event, so that a reader that waits for a quiet moment waits for ever."""
    monkeypatch.setattr(event_order, "_PATIENCE", 0.2)

    async def main() -> None:
        async with Hub() as hub:
            start, *_ = await tell(hub, "joined ann", "joined ann")

            async def be_busy() -> None:
                while True:
                    await tell(hub, "joined bob", "left bob")
                    await asyncio.sleep(0)

            async with asyncio.timeout(30):
                busy = asyncio.create_task(be_busy())
                found: list[str] = []
                async with contextlib.aclosing(events_of(hub.node, "test", start, asyncio.Event())) as stream:
                    async for _, event in stream:
                        await asyncio.sleep(0)
                        if event.user == "ann":
                            found.append(event.kind)
                            if len(found) == 2:
                                break
                busy.cancel()
            assert found == ["left", "joined"]

    asyncio.run(main())


def test_a_missing_end_that_comes_behind_the_end_itself_is_left_out() -> None:
    async def main() -> None:
        async with Hub() as hub:
            start, second = await tell(hub, "joined ann", "joined ann")
            await tell(hub, "left ann")
            late = KeptEvent("left", "room:1", "ann", "ann", missing=f"before {second}")
            await hub.node.publish(HAPPENED, msgspec.json.encode(late), ephemeral=False)
            assert await read(hub, start, 2) == ["left ann", "joined ann"]
            await tell(hub, "left ann")
            assert await read(hub, start, 3) == ["left ann", "joined ann", "left ann"]

    asyncio.run(main())


def test_an_end_whose_beginning_was_never_told_is_not_told_either(url: str) -> None:
    """The worker was killed between adding its member and telling the beginning."""

    async def main() -> None:
        hub = Hub(url)
        hub.on("joined")(lambda: None)  # so that the stream is kept
        async with hub:
            start, _, third, _ = await tell(hub, "joined bob", "left ann", "joined ann", "left ann")
            for since in (None, start):
                assert (await read(hub, since, 3))[-2:] == ["joined ann", "left ann"]
                assert "left ann" not in (await read(hub, since, 3))[:-2]
            assert await read(hub, third, 1) == ["left ann"]

    asyncio.run(main())


def test_an_end_whose_beginning_is_far_back_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_RECALLED", 10)

    async def main() -> None:
        hub = Hub(url)
        hub.on("joined")(lambda: None)
        async with hub:
            await tell(hub, "joined ann")
            *_, last = await tell(hub, *(10 * ["joined bob", "left bob"]))
            await tell(hub, "left ann")
            assert await read(hub, last, 1) == ["left ann"]

    asyncio.run(main())


def test_a_new_reader_knows_those_who_have_been_there_for_long() -> None:
    async def main() -> None:
        hub = Hub()
        hub.on("joined")(lambda: None)  # so that the stream is kept for long
        async with hub:
            await tell(hub, "joined ann")
            for _ in range(50):
                await asyncio.gather(*(tell(hub, "joined bob", "left bob") for _ in range(100)))
            (last,) = await tell(hub, "left bob")
            await tell(hub, "joined ann", "left ann")
            assert await read(hub, last, 2) == ["left ann", "joined ann"]

    asyncio.run(main())


def test_a_beginning_that_another_node_was_to_tell_is_told_once() -> None:
    """A worker was killed between noting a user and telling it, and the user is on another one."""

    async def main() -> None:
        hub = Hub()
        hub.on("joined")(lambda: None)  # so that the stream is kept
        async with hub:
            start, *_, last = await tell(
                hub,
                *("joined bob", "joined ann again", "joined ann again", "left ann"),  # nobody told it before
                *("joined ann", "joined ann again", "left ann"),  # somebody did
                *("joined ann again", "joined ann", "left ann"),  # the first one, which lives, was slow
            )
            for since in (None, start):
                assert [one for one in await read(hub, since, 9) if "ann" in one] == 3 * ["joined ann", "left ann"]
            await tell(hub, "joined ann again", "left ann")
            assert await read(hub, last, 2) == ["joined ann", "left ann"]

    asyncio.run(main())


def test_presence_knows_where_an_end_came_behind_another_beginning(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker was killed after telling an end, or a stalled one told a beginning late: told once by all readers."""
    monkeypatch.setattr(event_order, "_PATIENCE", 0.2)
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 0.05)

    async def main() -> None:
        hub = Hub(url)
        hub.on("joined")(lambda: None)
        async with hub:
            start, *_ = await tell(
                hub,
                *("joined eve", "joined ann", "joined ann again", "left ann", "joined bob", "joined bob again"),
                *("left bob", "joined cleo again", "joined dan", "left dan", "joined dan again"),
                *("joined fay", "left fay again", "left gus", "joined gus"),  # by a claimant, before it is forgotten
            )
            for name in ("ann", "dan", "fay"):
                await hub.node.presence.join(watched("joined:room:1"), Member(name, name))
            first, again = await asyncio.gather(read(hub, start, 20, 1.5), read(hub, start, 20, 1.5))
            names = ("ann", "bob", "cleo", "dan", "fay", "gus")
            assert {name: [one.split()[0] for one in first if name in one] for name in names} == {
                "ann": ["joined", "left", "joined"],
                "bob": ["joined", "left"],
                "cleo": ["joined", "left"],
                "dan": ["joined", "left", "joined"],
                "fay": ["joined", "left", "joined"],
                "gus": ["joined", "left"],
            }
            assert again == first
            assert await read(hub, start, 20) == first

    asyncio.run(main())


def test_a_reader_that_ends_between_two_events_of_one_place_leaves_the_second_to_the_next() -> None:
    async def main() -> None:
        hub = Hub()
        hub.on("joined")(lambda: None)
        async with hub:
            await tell(hub, "joined ann", "joined ann", "left ann")
            async with contextlib.aclosing(events_of(hub.node, "test", None, asyncio.Event())) as stream:
                assert (await anext(stream))[1].kind == "joined"
                place, event = await anext(stream)
            assert event.kind == "left"
            assert (await read(hub, place, 2))[-1] == "joined ann"

    asyncio.run(main())


def test_presence_is_asked_of_very_many_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a worker with thousands of users was killed: what is missing is told in time, and not 100 a look."""
    monkeypatch.setattr(event_order, "_PATIENCE", 0.1)
    monkeypatch.setattr(event_stream, "_LOOK_SECONDS", 2.0)

    async def main() -> None:
        hub = Hub()
        hub.on("joined")(lambda: None)
        async with hub:
            await tell(hub, *(f"joined {number} again" for number in range(1_000)))
            found = await read(hub, None, 1_999, 15.0)
            assert len(found) == 2_000

    asyncio.run(main())


def test_another_beginning_of_a_user_that_came_long_ago_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_RECALLED", 10)

    async def main() -> None:
        hub = Hub()
        hub.on("joined")(lambda: None)
        async with hub:
            await tell(hub, "joined ann")
            *_, last = await tell(hub, *(10 * ["joined bob", "left bob"]))
            await tell(hub, "joined ann again", "left ann")
            assert await read(hub, last, 1) == ["left ann"]

    asyncio.run(main())


async def tell(hub: Hub, *events: str) -> list[Position]:
    positions = []
    for event in events:
        kind, user, *again = event.split()
        data = msgspec.json.encode(KeptEvent(kind, "room:1", user, user, again=bool(again)))
        positions.append(await hub.node.publish(HAPPENED, data, ephemeral=False))
    return positions


async def read(hub: Hub, since: Position | None, number: int, seconds: float = 0.4) -> list[str]:
    """Return what a new reader yields, at most `number` and one more, in so many seconds."""
    found: list[str] = []
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            contextlib.aclosing(events_of(hub.node, "test", since, asyncio.Event())) as stream,
        ):
            async for _, event in stream:
                found.append(f"{event.kind} {event.user}")
                if len(found) > number:
                    break
    return found
