"""Text streams: one producer, rolled-up chunks, late comers, stop, and every way to end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.support import run
from helpers.stores import start_redis
from tidewire import (
    AlreadyStreaming,
    BadRequest,
    ChannelOptions,
    ConfigurationError,
    Hub,
    LimitExceeded,
    Position,
    Publications,
    SlowPolicy,
    Stopped,
    TidewireError,
)
from tidewire.protocols.text_chunks import Chunk, chunk_of
from tidewire.testing import wait_until

WORDS = [f"word{n} é😀 " for n in range(300)]
TEXT = "".join(WORDS)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "redis":
        with start_redis(tmp_path) as server:
            yield f"redis://127.0.0.1:{server.port}"
    else:
        yield "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"


@asynccontextmanager
async def two_hubs(url: str, **options: Any) -> AsyncIterator[tuple[Hub, Hub]]:
    """Open two hubs on one store; of memory, the same one twice."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(Hub(url, **options))
        there = here if url == "memory://" else await stack.enter_async_context(Hub(url, **options))
        yield here, there


class Reader:
    """Reads as the page of a browser does: at 0 a text is taken anew, otherwise it goes on."""

    def __init__(self) -> None:
        self.text = ""
        self.end = ""
        self.count = 0

    def take(self, chunk: Chunk) -> None:
        self.count += 1
        if chunk.at == 0:
            self.text = chunk.text
        else:
            assert chunk.at in (None, len(self.text.encode("utf-16-le")) // 2)
            self.text += chunk.text
        self.end = chunk.end

    async def read(self, publications: Publications) -> Reader:
        async for publication in publications:
            chunk = chunk_of(publication)
            if chunk is not None:
                self.take(chunk)
                if self.end:
                    break
        return self


async def listen(hub: Hub, **options: Any) -> Reader:
    async with hub.listen("chat:1", **options) as publications:
        return await Reader().read(publications)


async def produce(hub: Hub, seconds: float = 0.002, words: list[str] = WORDS) -> None:
    async with hub.stream("chat:1") as out:
        for word in words:
            await out.write(word)
            await asyncio.sleep(seconds)


def test_readers_from_the_beginning_and_late_ones_get_the_same_text(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as (here, there):
            async with there.listen("chat:1") as publications:
                producing = asyncio.create_task(produce(here))
                reading = asyncio.create_task(Reader().read(publications))
                late: list[asyncio.Task[Reader]] = []
                while not producing.done():
                    await asyncio.sleep(0.07)
                    late.append(asyncio.create_task(listen(there, since=Position(0, ""), history=5)))
                await producing
                reader = await reading
            assert (reader.text, reader.end) == (TEXT, "done")
            assert reader.count <= len(WORDS) / 4 + 4
            for one in await asyncio.gather(*late):
                assert (one.text, one.end) == (TEXT, "done")
            page = await there.history("chat:1")
            (only,) = page.publications
            assert only.json()["text"] == TEXT
            assert only.offset == page.top.offset

    run(main(), 60)


def test_a_second_producer_is_refused_until_the_first_has_ended(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as (here, there):
            async with here.stream("chat:1") as out:
                await out.write("first")
                for hub in (here, there):
                    with pytest.raises(AlreadyStreaming, match="another producer writes in 'chat:1'"):
                        async with hub.stream("chat:1"):
                            raise AssertionError("two producers")
                async with there.stream("chat:2") as other:
                    await other.write("another channel")
                await out.write(" and only")

            async def is_free() -> bool:
                try:
                    await produce(there, 0, ["second"])
                except AlreadyStreaming:
                    return False
                return True

            await wait_until(is_free)
            texts = [one.json()["text"] for one in (await here.history("chat:1")).publications]
            assert texts == ["first and only", "second"]
            assert await here.presence("chat:1") == []

    run(main(), 60)


def test_a_reader_stops_it_from_any_node(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as (here, there):
            seen: list[str] = []

            async def answer() -> None:
                async with here.stream("chat:1") as out:
                    try:
                        while True:
                            await out.write("x")
                            await asyncio.sleep(0.001)
                    except Stopped as error:
                        seen.append(str(error))
                        raise

            async with there.listen("chat:1") as publications:
                answering = asyncio.create_task(answer())
                reading = asyncio.create_task(Reader().read(publications))
                await wait_until(lambda: len((here._opened.streams)._open) == 1)
                await there.stop_stream("other")
                await asyncio.sleep(0.1)
                assert not answering.done()
                await there.stop_stream("chat:1")
                await answering  # it ends quietly
                reader = await reading
            assert reader.end == "stopped"
            assert set(reader.text) == {"x"}
            assert len(seen) == 1
            await there.stop_stream("chat:1")  # harmless

    run(main(), 60)


def test_a_producer_that_raises_or_is_cancelled_ends_it_as_aborted_with_its_text() -> None:
    async def main() -> None:
        async with Hub() as hub:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with hub.stream("chat:1") as out:
                    await out.write("half a ")
                    raise ZeroDivisionError
            producing = asyncio.create_task(produce(hub, 10.0, ["another "]))
            await wait_until(lambda: hub.statistics().published >= 3)
            producing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await producing
            found = [one.json() for one in (await hub.history("chat:1")).publications]
            assert [(one["text"], one["end"]) for one in found] == [("half a ", "aborted"), ("another ", "aborted")]

    run(main())


def test_a_hub_that_closes_ends_its_streams() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def answer(hub: Hub) -> None:
            async with hub.stream("chat:1") as out:
                try:
                    while True:
                        await out.write("x")
                except Stopped as error:
                    ended.append(str(error))
                    raise

        async with Hub() as hub:
            answering = asyncio.create_task(answer(hub))
            await wait_until(lambda: hub.statistics().published >= 2)
        await answering
        assert ended == ["the stream in 'chat:1' has ended (aborted)"]

    run(main())


KILLED = """
import asyncio, sys
from tidewire import Hub
async def main():
    async with Hub(sys.argv[1]) as hub, hub.stream("chat:1") as out:
        n = 0
        while True:
            await out.write(f"{n} ")
            n += 1
            await asyncio.sleep(0.005)
asyncio.run(main())
"""


def test_a_producer_that_is_killed_ends_as_aborted_within_its_lease(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/chat.db"
        async with Hub(url) as hub, hub.listen("chat:1") as publications:
            producer = subprocess.Popen([sys.executable, "-c", KILLED, url])  # noqa: ASYNC220
            try:
                reader = Reader()
                reading = asyncio.create_task(reader.read(publications))
                await wait_until(lambda: len(reader.text) > 100, limit=30)
                producer.send_signal(signal.SIGKILL)
                async with asyncio.timeout(20):  # 15 s, and a machine that is busy with other tests
                    await reading
            finally:
                producer.kill()
                producer.wait()
            assert reader.end == "aborted"
            assert reader.text == "".join(f"{n} " for n in range(reader.text.count(" ")))
            (late,) = (await hub.history("chat:1")).publications
            assert (late.json()["text"], late.json()["end"]) == (reader.text, "aborted")
            async with hub.stream("chat:1") as out:  # and there is room for the next
                await out.write("again")

    run(main(), 90)


def test_a_producer_that_was_taken_for_dead_stops() -> None:
    async def main() -> None:
        async with Hub() as hub:
            reader = Reader()
            async with hub.stream("chat:1") as out:
                await out.write("before ")
                await wait_until(lambda: hub.statistics().published >= 2)
                # as the node does that has claimed its member
                await hub.node.publish("chat:1", Chunk(out.id, "", end="aborted").encode())
                hub.node.memberships.lost_leases += 1
                for n in range(1_000):
                    await out.write(f"{n} ")
                    await asyncio.sleep(0.005)
                raise AssertionError("it goes on")
            (late,) = (await hub.history("chat:1")).publications
            reader.take(Chunk(**late.json()))
            assert (reader.text, reader.end) == ("before ", "aborted")

    run(main())


@pytest.mark.parametrize("options", [ChannelOptions(history_size=3), ChannelOptions(history_size=1, latest=True)])
def test_a_short_history_has_the_whole_text(options: ChannelOptions) -> None:
    async def main() -> None:
        async with Hub(channels={"chat:*": options}) as hub:
            await produce(hub, 0.005, WORDS[:100])
            (late,) = (await hub.history("chat:1")).publications
            assert late.json() == {
                "stream": late.json()["stream"],
                "text": "".join(WORDS[:100]),
                "at": 0,
                "end": "done",
            }

    run(main())


@pytest.mark.parametrize("slow", [SlowPolicy.LATEST, SlowPolicy.DROP])
def test_where_chunks_may_be_left_out_each_is_whole(slow: SlowPolicy) -> None:
    async def main() -> None:
        async with Hub(channels={"chat:*": ChannelOptions(slow=slow)}) as hub, hub.listen("chat:1") as publications:
            producing = asyncio.create_task(produce(hub, 0.002, WORDS[:100]))
            async for publication in publications:
                chunk = Chunk(**publication.json())
                assert chunk.at == 0
                assert "".join(WORDS).startswith(chunk.text)
                if chunk.end:
                    break
            await producing

    run(main())


def test_what_cannot_be_is_refused() -> None:
    async def main() -> None:
        channels = {"none": ChannelOptions(history_size=0), "gone": ChannelOptions(ephemeral=True)}
        async with Hub(channels=channels, limits={"stream_bytes": 20}) as hub:
            for channel in channels:
                with pytest.raises(ConfigurationError, match="keeps nothing; give it a history"):
                    async with hub.stream(channel):
                        pass
            with pytest.raises(BadRequest):
                hub.stream("")
            out = hub.stream("chat:1")
            with pytest.raises(TidewireError, match="async with"):
                await out.write("early")
            with pytest.raises(LimitExceeded, match="at most 20 bytes"):  # noqa: PT012
                async with out:
                    for wrong in (b"bytes", None, 5):
                        with pytest.raises(BadRequest, match="takes str"):
                            await out.write(wrong)  # type: ignore[arg-type]
                    for wrong in ("\udc00", "\ud800\ud800"):  # a low half alone, and a high one that stays so
                        with pytest.raises(BadRequest, match="surrogate"):
                            await out.write(wrong)
                    await out.write("")
                    await out.write("x" * 20)
                    await out.write("y")
            with pytest.raises(Stopped):
                await out.write("late")
            with pytest.raises(TidewireError, match="entered before"):
                async with out:
                    pass
            (late,) = (await hub.history("chat:1")).publications
            assert json.loads(late.data)["end"] == "aborted"
            assert out.text == "x" * 20

    run(main())


def test_a_character_in_two_tokens_is_one() -> None:
    """Half of a surrogate pair is what `json.loads` makes of a token that a model's server has cut there."""

    async def main() -> None:
        async with Hub() as hub:
            async with hub.stream("chat:1") as out:
                await out.write("a\ud83d")
                await wait_until(lambda: hub.statistics().published == 2)  # what is before the half
                for token in ("\ude00b", "\ud83d", "", "\ude00\ud83d", "c\ud83d", "\ud83d", "\ude00\ud83d"):
                    await out.write(token)
            (late,) = (await hub.history("chat:1")).publications
            assert (late.json()["text"], late.json()["end"]) == ("a😀b😀\ufffdc\ufffd😀\ufffd", "done")

    run(main())
