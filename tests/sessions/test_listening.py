"""Channels that the application's own code listens to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.hubs import run
from tidewire import (
    BadRequest,
    ChannelOptions,
    CutOff,
    Format,
    Hub,
    LimitExceeded,
    Position,
    Publication,
    Publications,
    SlowPolicy,
    TidewireError,
)
from tidewire.messages import MAX_OFFSET
from tidewire.testing import wait_until

LONG = {"news": ChannelOptions(history_size=1_000)}


async def take(publications: Publications, count: int) -> list[Any]:
    """Return what the next publications hold."""
    async with asyncio.timeout(20):
        return [(await anext(publications)).json() for _ in range(count)]


async def read_into(got: list[Any], publications: Publications) -> None:
    """Read until the end."""
    async for publication in publications:
        got.append(publication.json())


@given(st.integers(0, MAX_OFFSET), st.text())
def test_a_position_is_one_word_and_comes_back_from_it(offset: int, epoch: str) -> None:
    position = Position(offset, epoch.replace("\ud800", ""))
    try:
        epoch.encode()
    except UnicodeEncodeError:
        return
    text = str(position)
    assert text.isascii()
    assert text.isprintable()
    assert not set(" ;,&?#+/\"'") & set(text)
    assert Position.parse(text) == position == Position.parse(f" {text}\r\n")


@pytest.mark.parametrize("text", ["", "5", "a:", "a:-1", "a:1.5", "a:¹", f"a:{MAX_OFFSET + 1}", "a:" + "9" * 5_000])
def test_other_text_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="no position"):
        Position.parse(text)


def test_a_publication_is_read_in_the_form_that_is_wanted() -> None:
    def published(data: bytes, format: Format) -> Publication:
        return Publication("a", 7, 6, "e", 0.0, data, format)

    assert published(b'{"n":1}', Format.JSON).json() == {"n": 1}
    assert published("é".encode(), Format.TEXT).json() == published("é".encode(), Format.TEXT).text() == "é"
    assert published(b"\xff", Format.BINARY).json() == "/w=="
    assert published(b"", Format.JSON).position == Position(7, "e")
    for broken in (b"", b"{", b'"\xff"', b"[" * 5_000):
        with pytest.raises(ValueError, match="publication e:7 of 'a' cannot be read"):
            published(broken, Format.JSON).json()


def test_history_comes_first_and_then_what_is_published() -> None:
    async def main() -> None:
        async with Hub() as hub:
            for n in range(5):
                await hub.publish("news", {"n": n})
            async with hub.listen("news", history=2) as publications:
                assert publications.recovered is None
                await hub.publish("news", "text")
                assert await take(publications, 3) == [{"n": 3}, {"n": 4}, "text"]
                place = str(publications.position)
            await hub.publish("news", 5)
            async with hub.listen("news", since=place, history=2) as publications:
                assert publications.recovered is True
                assert await take(publications, 1) == [5]
            assert hub.statistics().connections == 0

    run(main())


def test_what_nobody_keeps_is_read_and_leaves_the_place() -> None:
    async def main() -> None:
        async with Hub() as hub, hub.listen("news") as publications:
            await hub.publish("news", 1)
            assert await take(publications, 1) == [1]
            place = publications.position
            await hub.publish("news", "typing", ephemeral=True)
            (typing,) = [await anext(publications)]
            assert (typing.json(), typing.position, publications.position) == ("typing", place, place)
            await hub.publish("news", 2)
            assert await take(publications, 1) == [2]

    run(main())


NOWHERE = ["nonsense", "a:1", ":", "a:99999999999999999999", "%:1", "%00:1", Position(-1, "a"), Position(1, "a\0")]


@pytest.mark.parametrize("since", NOWHERE)
def test_a_position_that_nobody_knows_is_not_recovered(since: str | Position) -> None:
    async def main() -> None:
        async with Hub() as hub:
            for n in range(3):
                await hub.publish("news", n)
            async with hub.listen("news", since=since, history=2) as publications:
                assert publications.recovered is False
                assert await take(publications, 2) == [1, 2]
            async with hub.listen("news", since="", history=1) as publications:
                assert publications.recovered is None
            with pytest.raises(BadRequest, match="no position"):
                hub.listen("news", since=5)  # type: ignore[arg-type]
            with pytest.raises(BadRequest):
                hub.listen("")

    run(main())


def test_a_reader_is_entered_once() -> None:
    async def main() -> None:
        async with Hub() as hub:
            listening = hub.listen("news")
            with pytest.raises(TidewireError, match="async with"):
                aiter(listening)
            async with listening:
                with pytest.raises(TidewireError, match="entered before"):
                    await listening.__aenter__()
            with pytest.raises(TidewireError, match="entered before"):
                await listening.__aenter__()

    run(main())


def test_a_slow_reader_is_cut_off_and_comes_back_where_it_was() -> None:
    async def main() -> None:
        async with Hub(limits={"outbox_messages": 20}, channels=LONG) as hub:
            got: list[int] = []
            async with hub.listen("news") as publications:
                for n in range(100):
                    await hub.publish("news", n)
                    await asyncio.sleep(0)
                with pytest.raises(CutOff, match="since=") as cut:
                    await read_into(got, publications)
            assert 20 <= len(got) <= 30
            async with hub.listen("news", since=str(cut.value.position)) as publications:
                assert publications.recovered is True
                got += await take(publications, 100 - len(got))
            assert got == list(range(100))
            assert not hub.node.registry.readers

    run(main())


@pytest.mark.parametrize("policy", [SlowPolicy.LATEST, SlowPolicy.DROP])
def test_a_reader_is_told_how_many_it_was_too_slow_for(policy: SlowPolicy) -> None:
    async def main() -> None:
        rules = {"news": ChannelOptions(slow=policy)}
        async with Hub(limits={"outbox_messages": 20}, channels=rules) as hub, hub.listen("news") as publications:
            for n in range(100):
                await hub.publish("news", n)
                await asyncio.sleep(0)
            got: list[int] = []
            while len(got) + publications.lost < 100:
                got += await take(publications, 1)
            assert got == sorted(set(got))
            assert publications.lost > 50
            assert (got[-1] == 99) is (policy is SlowPolicy.LATEST)
            await hub.publish("news", "next")
            assert await take(publications, 1) == ["next"]

    run(main())


def test_a_long_history_waits_for_a_reader_that_takes_its_time() -> None:
    async def main() -> None:
        async with Hub(limits={"outbox_messages": 20}, channels=LONG) as hub:
            for n in range(500):
                await hub.publish("news", n)
            async with hub.listen("news", history=500) as publications:
                got = []
                for n in range(500, 510):
                    await hub.publish("news", n)
                    await asyncio.sleep(0)
                for _ in range(510):
                    got += await take(publications, 1)
                    await asyncio.sleep(0)
                assert got == list(range(510))

    run(main())


def test_a_reader_with_much_to_take_gets_the_newest_of_what_nobody_keeps_and_the_number_of_the_others() -> None:
    async def main() -> None:
        async with Hub(limits={"outbox_messages": 20, "ephemeral_seconds": 0.001}, channels=LONG) as hub:
            for n in range(100):
                await hub.publish("news", n)
            async with hub.listen("news", history=100) as publications:
                for n in range(10):
                    await hub.publish("news", f"gone {n}", ephemeral=True)
                    await asyncio.sleep(0.005)
                assert await take(publications, 101) == [*range(100), "gone 9"]
                assert publications.lost == hub.statistics().superseded == 9

    run(main())


def test_a_reader_that_is_about_to_enter_misses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Hub(f"sqlite:///{tmp_path}/chat.db") as hub:
            await hub.publish("a", "kept")
            publications = hub.listen("a", history=1)
            entering = asyncio.create_task(publications.__aenter__())
            channels = hub.node.registry.channels
            while not ("a" in channels and channels["a"].buffering):
                assert not entering.done()
                await asyncio.sleep(0)
            await hub.publish("a", "gone", ephemeral=True)
            await entering
            assert await take(publications, 2) == ["kept", "gone"]
            await publications.__aexit__(None, None, None)

    run(main())


def test_no_listener_is_left_behind() -> None:
    async def main() -> None:
        async with Hub() as hub:

            async def read() -> str:
                async with hub.listen("news") as publications:
                    async for _ in publications:
                        raise OSError("the database of the application is away")
                return "ended"

            cancelled = asyncio.create_task(read())
            failed = asyncio.create_task(read())
            ended = asyncio.create_task(read())
            await wait_until(lambda: len(hub.node.registry.readers) == 3)
            cancelled.cancel()
            await wait_until(lambda: len(hub.node.registry.readers) == 2)
            failed.cancel()
            await asyncio.wait([failed])
            assert len(hub.node.registry.readers) == 1
        assert await ended == "ended"
        assert cancelled.cancelled()

    run(main())


def test_a_gap_that_cannot_be_filled_is_told() -> None:
    async def main() -> None:
        async with Hub(channels=LONG) as hub, hub.listen("news") as publications:
            await hub.publish("news", 1)
            assert await take(publications, 1) == [1]
            await hub.publish("news", 2)
            hub.node.fanout.tell_insufficient(hub.node.registry.channels["news"])
            with pytest.raises(CutOff, match="insufficient") as cut:
                await take(publications, 2)
            assert cut.value.position.offset == 1
            async with hub.listen("news", since=cut.value.position) as again:
                assert await take(again, 1) == [2]

    run(main())


def test_readers_are_bounded_in_number() -> None:
    async def main() -> None:
        async with Hub("memory://", limits={"readers": 2}) as hub:
            before = hub.statistics().limits_reached.get("readers", 0)
            async with hub.listen("a"), hub.listen("a"):
                with pytest.raises(LimitExceeded, match="readers"):
                    async with hub.listen("b"):
                        pass
            async with hub.listen("b"):
                assert hub.statistics().limits_reached["readers"] == before + 1

    run(main())


def test_a_publication_that_nobody_keeps_is_given_to_a_reader_that_has_just_entered() -> None:
    async def main() -> None:
        async with Hub("memory://") as hub:
            await hub.publish("a", "kept")
            async with hub.listen("a", history=1) as publications:
                await hub.publish("a", "gone", ephemeral=True)  # in the turn in which it entered
                assert await take(publications, 2) == ["kept", "gone"]

    run(main())
