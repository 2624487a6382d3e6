"""Maps: entries on every store, from several nodes at once, with time, owners, and the copies that outlive history."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from engine.support import PLAIN, connect, run
from tidewire import (
    BadRequest,
    ChannelOptions,
    ConfigurationError,
    Entries,
    EntryChanged,
    Hub,
    InvalidMessage,
    LimitExceeded,
    PermissionDenied,
    SlowPolicy,
    StoreUnavailable,
)
from tidewire.channel_options import MapKind, MapOptions
from tidewire.http_api.calls import Calls
from tidewire.http_api.nodes import Nodes
from tidewire.messages import Position, PublishRequest
from tidewire.sessions.maps import Maps
from tidewire.testing import wait_until


class Note(BaseModel):
    text: str
    size: int = 1


@asynccontextmanager
async def two_hubs(url: str, **options: Any) -> AsyncIterator[tuple[Hub, Hub]]:
    """Open two hubs on one store; of memory, the same one twice."""
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(Hub(url, **options))
        there = here if url == "memory://" else await stack.enter_async_context(Hub(url, **options))
        yield here, there


async def values(hub: Hub, channel: str = "board") -> dict[str, Any]:
    return (await hub.entries(channel)).values()


def test_an_entry_is_set_changed_and_removed_on_every_node(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as (here, there):
            assert await values(here) == {}
            first = await here.set("board", "a", {"x": 1})
            assert (first.key, first.value, first.offset) == ("a", {"x": 1}, 1)
            await here.publish("board", "something else")
            assert await values(there) == {"a": {"x": 1}}
            await there.set("board", "b", None)
            await there.set("board", "a", 2)
            assert await values(here) == {"a": 2, "b": None}
            assert await there.unset("board", "a")
            assert not await here.unset("board", "a")
            assert not await here.unset("board", "never")
            await here.set("board", "a", 3)
            assert await values(there) == {"a": 3, "b": None}
            assert await values(there, "another") == {}

    run(main(), 60)


def test_of_many_that_expect_the_same_one_succeeds(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as hubs:

            async def count(hub: Hub) -> None:
                while True:
                    entry = (await hub.entries("board")).entries.get("n")
                    try:
                        if entry is None:
                            await hub.set("board", "n", 1, expect=0)
                        else:
                            await hub.set("board", "n", entry.value + 1, expect=entry.offset)
                    except EntryChanged:
                        continue
                    return

            await asyncio.gather(*(count(hubs[n % 2]) for n in range(12)))
            assert await values(hubs[1]) == {"n": 12}
            entry = (await hubs[0].entries("board")).entries["n"]
            for expect in (0, entry.offset - 1, entry.offset + 1):
                with pytest.raises(EntryChanged, match="read it again"):
                    await hubs[1].set("board", "n", "wrong", expect=expect)
                with pytest.raises(EntryChanged):
                    await hubs[1].unset("board", "n", expect=expect)
            assert await hubs[1].unset("board", "n", expect=entry.offset)
            with pytest.raises(EntryChanged):
                await hubs[0].unset("board", "n", expect=entry.offset)
            assert await values(hubs[0]) == {}

    run(main(), 60)


def test_changes_from_many_at_once_are_all_made(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as hubs:
            await asyncio.gather(*(hubs[n % 2].set("board", f"k{n % 5}", n) for n in range(60)))
            one, other = await values(hubs[0]), await values(hubs[1])
            assert one == other
            assert set(one) == {f"k{n}" for n in range(5)}
            page = await hubs[0].history("board")
            assert len(page.publications) == 60  # none was lost to another
            last = {change.json()["key"]: change.json()["value"] for change in page.publications}
            assert last == one

    run(main(), 60)


def test_a_subscriber_that_begins_at_the_entries_misses_nothing(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as (here, there):

            async def write() -> None:
                for n in range(100):
                    await here.set("board", f"k{n % 7}", n)

            writing = asyncio.create_task(write())
            await asyncio.sleep(0.02)
            found: Entries = await there.entries("board")
            mine = found.values()
            async with there.listen("board", since=found.position, history=100) as publications:
                while not (writing.done() and mine == await values(there)):
                    try:
                        async with asyncio.timeout(0.2):
                            change = (await anext(publications)).json()
                    except TimeoutError:
                        continue
                    mine[change["key"]] = change["value"]
            await writing
            assert mine == {f"k{n % 7}": n for n in range(93, 100)}

    run(main(), 60)


def test_entries_outlive_the_history_and_all_nodes(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/chat.db"
        channels = {"board": ChannelOptions(history_size=8)}
        async with two_hubs(url, channels=channels) as (here, there):
            await here.set("board", "old", 1)
            await here.set("board", "gone", 1)
            await here.unset("board", "gone")
            for n in range(60):
                await (here, there)[n % 2].set("board", "new", n)
                await there.publish("board", "noise") if n % 3 else None
        async with Hub(url, channels=channels) as later:
            assert await values(later) == {"old": 1, "new": 59}
            await later.set("board", "gone", 2, expect=0)
            assert (await values(later))["gone"] == 2

    run(main(), 60)


def test_an_entry_ends_after_its_time(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url) as (here, there):
            await here.set("board", "short", 1, ttl=0.5)
            await here.set("board", "renewed", 1, ttl=0.5)
            await here.set("board", "renewed", 2, ttl=60)
            await here.set("board", "long", 1)
            assert set(await values(there)) == {"short", "renewed", "long"}

            async def is_over() -> bool:
                return await values(there) == {"renewed": 2, "long": 1}

            await wait_until(is_over, limit=15)
            removals = [one.json() for one in (await here.history("board")).publications if b"removed" in one.data]
            assert [one["key"] for one in removals] == ["short"]  # once, whichever node did it

    run(main(), 60)


def test_entries_leave_with_their_connection() -> None:
    async def main() -> None:
        async with Hub() as hub:
            ann = await connect(hub.node, PLAIN, user="ann")
            other = await connect(hub.node, PLAIN, user="ann")  # another device
            for key in ("a", "b"):
                await hub.set("board", key, "ann's", owner=ann.connection.id)
            await hub.set("board", "c", "hers on another device", owner=other.connection.id)
            await hub.set("board", "b", "anybody's")
            ann.link.vanish()

            async def is_gone() -> bool:
                return set(await values(hub)) == {"b", "c"}

            await wait_until(is_gone)
            assert await hub.presence("board") == []
            other.link.vanish()
            await wait_until(lambda: not hub.node.registry.connections)
            with pytest.raises(BadRequest, match="no connection of this process"):
                await hub.set("board", "d", 1, owner=ann.connection.id)

    run(main())


KILLED = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from engine.support import PLAIN, connect
from tidewire import Hub
async def main():
    async with Hub(sys.argv[1]) as hub:
        client = await connect(hub.node, PLAIN, user="ann")
        await hub.set("board", "cursor", 1, owner=client.connection.id)
        await hub.set("board", "stays", 1)
        print("set", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.slow
def test_entries_of_a_killed_process_leave_within_its_lease(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/chat.db"
        tests = str(Path(__file__).parents[1])
        async with Hub(url) as hub:
            process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-c", KILLED, url, tests], stdout=subprocess.PIPE, text=True
            )
            try:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline) == "set\n"
                assert set(await values(hub)) == {"cursor", "stays"}
                process.send_signal(signal.SIGKILL)

                async def is_gone() -> bool:
                    return set(await values(hub)) == {"stays"}

                await wait_until(is_gone, limit=20)  # 15 s, and a machine that is busy with other tests
            finally:
                process.kill()
                process.wait()

    run(main(), 90)


def test_what_cannot_be_is_refused() -> None:
    async def main() -> None:
        channels = {
            "none": ChannelOptions(history_size=0),
            "gone": ChannelOptions(ephemeral=True, map=MapOptions(kind=MapKind.CLIENTS)),
            "newest": ChannelOptions(slow=SlowPolicy.LATEST),
        }
        async with Hub(channels=channels, limits={"map_bytes": 500}) as hub:
            for channel in channels:
                with pytest.raises(ConfigurationError, match="a map needs"):
                    await hub.set(channel, "a", 1)
                with pytest.raises(ConfigurationError):
                    await hub.entries(channel)
            for key in ("", "x" * 256, None, 5, "a\0b"):
                with pytest.raises(BadRequest):
                    await hub.set("board", key, 1)  # type: ignore[arg-type]
            for ttl in (-1, float("nan"), float("inf"), "5", True):
                with pytest.raises(BadRequest, match="no number of seconds"):
                    await hub.set("board", "a", 1, ttl=ttl)  # type: ignore[arg-type]
            for expect in ("1", 1.5, True):
                with pytest.raises(BadRequest, match="no offset"):
                    await hub.set("board", "a", 1, expect=expect)  # type: ignore[arg-type]
            with pytest.raises(BadRequest):
                await hub.set("board", "a", object())
            with pytest.raises(PermissionDenied):
                await hub.set("$map:board", "a", 1)
            with pytest.raises(LimitExceeded, match="map_bytes"):
                await hub.set("board", "a", "x" * 600)
            await hub.set("board", "a", "x" * 100)
            assert set(await values(hub)) == {"a"}

    run(main())


def test_values_are_of_the_type_that_the_rule_publishes() -> None:
    async def main() -> None:
        hub = Hub()

        @hub.channel("board", publishes=Note, map=True)
        async def board() -> bool:
            return True

        @hub.channel("words", publishes=str, map=True)
        async def words() -> bool:
            return True

        async with hub:
            calls = Calls(hub.node, Nodes(hub.node, version="0"), hub.node.options.of)

            async def by_api(channel: str, key: str, value: Any) -> None:
                request = {"channel": channel, "key": key, "data": value}
                await calls.call("map_publish", msgspec.json.encode(request))

            for set_entry in (hub.set, by_api):
                await set_entry("board", "a", {"text": "x", "size": "5", "unknown": True})
                assert await values(hub) == {"a": {"text": "x", "size": 5}}
                await set_entry("words", "a", "[1]")
                assert await values(hub, "words") == {"a": "[1]"}
                for wrong in ({"size": 1}, "text", None):
                    with pytest.raises(InvalidMessage):
                        await set_entry("board", "b", wrong)
                with pytest.raises(InvalidMessage):
                    await set_entry("words", "b", 5)
            await hub.set("board", "a", Note(text="y"))
            assert await values(hub) == {"a": {"text": "y", "size": 1}}

    run(main())


def test_a_step_that_began_before_the_close_reads_no_map_anew() -> None:
    async def main() -> None:
        async with Hub() as hub:
            await hub.set("board", "a", 1)
            maps = Maps.of(hub.node)
            await Maps.close(hub.node)
            with pytest.raises(StoreUnavailable, match="closing"):
                await maps.entries("board")
            assert Maps.of(hub.node) is maps

    run(main())


def test_a_map_that_the_store_cannot_keep_whole_takes_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its history would forget entries; as a map of more than `max_payload` on NATS, where map_bytes allow it."""

    async def main() -> None:
        limits, options = {"map_bytes": 1 << 24}, {"*": ChannelOptions(history_size=10)}
        async with Hub("memory://", limits=limits, channels=options) as hub:
            publish = hub.node.broker.publish

            async def publish_small(request: PublishRequest) -> Position:
                if len(request.data) > 20_000:
                    raise BadRequest("that is too large for this store")
                return await publish(request)

            monkeypatch.setattr(hub.node.broker, "publish", publish_small)

            async def fill() -> None:
                for number in range(1_000):
                    await hub.set("map", str(number), "x" * 2_000)
                    await asyncio.sleep(0)

            with pytest.raises(LimitExceeded, match="remove entries first"):
                await fill()
            kept = (await hub.entries("map")).entries
            assert 10 <= len(kept) < 100
            assert [record.exc_info for record in caplog.records if record.levelname == "ERROR"] == [None]
            for key in kept:
                await hub.unset("map", key)
            async with asyncio.timeout(20):
                while not (await hub.entries("map")).entries:
                    with suppress(LimitExceeded):  # the copy comes a moment later
                        await hub.set("map", "again", 1)
                    await asyncio.sleep(0.01)

    run(main())
