"""Maps that nobody keeps: the same entries on every node, whatever is lost between them, and no row."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.support import PLAIN, connect, run
from helpers.counting import reached
from tidewire import BadRequest, ChannelOptions, Hub, LimitExceeded
from tidewire.channel_options import MapOptions
from tidewire.errors import StoreUnavailable
from tidewire.messages import Member
from tidewire.protocols.map_changes import Change
from tidewire.protocols.map_news import KnownChange, News
from tidewire.protocols.meta import CHANGE
from tidewire.sessions.map_exchange import SharedReplica
from tidewire.sessions.maps import Maps
from tidewire.testing import wait_until

CHANNELS = {"board": ChannelOptions(ephemeral=True, map=MapOptions())}


@asynccontextmanager
async def hubs(url: str, count: int = 2, **options: Any) -> AsyncIterator[list[Hub]]:
    """Open hubs on one store; of memory, the same one."""
    async with AsyncExitStack() as stack:
        found: list[Hub] = []
        for _ in range(count):
            if url != "memory://" or not found:
                found.append(await stack.enter_async_context(Hub(url, channels=CHANNELS, **options)))
            else:
                found.append(found[0])
        yield found


async def values(hub: Hub) -> dict[str, Any]:
    return (await hub.entries("board")).values()


async def until_equal(expected: dict[str, Any], *hubs: Hub) -> None:
    async def is_so() -> bool:
        return all([await values(hub) == expected for hub in hubs])

    await wait_until(is_so, limit=20, what=f"all have {expected}")


async def until_alike(*hubs: Hub) -> dict[str, Any]:
    """Wait until all nodes have the same entries; return them."""
    found: list[dict[str, Any]] = []

    async def is_so() -> bool:
        found[:] = [await values(hub) for hub in hubs]
        return all(one == found[0] for one in found)

    await wait_until(is_so, limit=20, what="all nodes have the same entries")
    return found[0]


def test_every_node_has_what_any_node_sets(url: str) -> None:
    async def main() -> None:
        async with hubs(url) as (here, there):
            entry = await here.set("board", "a", {"x": 1}, tags={"t": "1"})
            assert (entry.key, entry.value, entry.tags) == ("a", {"x": 1}, {"t": "1"})
            assert await values(here) == {"a": {"x": 1}}
            await until_equal({"a": {"x": 1}}, there)  # which comes late
            await there.set("board", "b", None)
            await there.set("board", "a", 2)
            await until_equal({"a": 2, "b": None}, here, there)
            assert await here.unset("board", "a")
            assert not await here.unset("board", "never")
            await until_equal({"b": None}, here, there)
            page = await here.history("board")
            assert not page.publications

    run(main(), 60)


def test_of_changes_at_once_all_nodes_keep_the_same_one(url: str) -> None:
    async def main() -> None:
        async with hubs(url) as (here, there):
            for hub in (here, there):
                await values(hub)
            async with here.listen("board") as one, there.listen("board") as other:
                for n in range(40):
                    await asyncio.gather(here.set("board", f"k{n % 3}", n), there.set("board", f"k{n % 3}", -n))
                await here.set("board", "last", 0)
                await there.set("board", "last", 1)
                await until_equal({"last": 1} | await until_alike(here, there), here, there)
                expected = await until_alike(here, there)
                for publications in (one, other):  # subscribers end with the same ones
                    seen: dict[str, Any] = {}
                    async with asyncio.timeout(20):
                        while seen != expected:
                            change = (await anext(publications)).json()
                            seen[change["key"]] = change["value"]

    run(main(), 60)


@pytest.mark.parametrize("lost", [0.3, 1.0])
def test_what_is_lost_between_nodes_comes_later(tmp_path: Path, lost: float) -> None:
    """`lost` is the part of what the nodes send each other that does not arrive, for a while."""

    async def main() -> None:
        async with hubs(f"sqlite:///{tmp_path}/chat.db", 3) as found:
            for hub in found:
                await values(hub)
            chance = random.Random(3)
            relays = [hub.node.broker.relay for hub in found]
            for hub, relay in zip(found, relays, strict=True):

                def lossy(publications: Any, relay: Any = relay) -> None:
                    relay([one for one in publications if chance.random() >= lost])

                vars(hub.node.broker)["relay"] = lossy
            for n in range(60):
                hub = found[n % 3]
                if n % 7 == 6:
                    await hub.unset("board", f"k{n % 5}")
                else:
                    await hub.set("board", f"k{n % 5}", n)
                await asyncio.sleep(0.005)
            for hub in found:
                del vars(hub.node.broker)["relay"]
            await found[0].set("board", "last", 1)
            await wait_until(lambda: reached()["map_gap"] > 0, limit=20)
            assert (await until_alike(*found))["last"] == 1

    run(main(), 60)


def test_entries_end_with_their_time_and_their_owner(tmp_path: Path) -> None:
    async def main() -> None:
        async with hubs(f"sqlite:///{tmp_path}/chat.db") as (here, there):
            ann = await connect(here.node, PLAIN, user="ann")
            await here.set("board", "ann", 1, owner=ann.connection.id)
            await here.set("board", "short", 1, ttl=0.5)
            await here.set("board", "stays", 1)
            assert set(await values(there)) >= {"ann", "stays"}
            async with there.listen("board") as publications:
                ann.link.vanish()
                gone = set()
                async with asyncio.timeout(20):
                    while gone != {"ann", "short"}:
                        change = (await anext(publications)).json()
                        gone |= {change["key"]} if change.get("removed") else set()
            await until_equal({"stays": 1}, here, there)
            async with hubs(f"sqlite:///{tmp_path}/chat.db", 1) as (late,):
                assert await values(late) == {"stays": 1}

    run(main(), 60)


def test_an_owner_that_had_left_is_noticed_although_presence_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leave came before this node listened, and nobody tells it again."""

    async def main() -> None:
        async with hubs("memory://", 1) as (here,):
            assert await values(here) == {}
            change = Change("k", msgspec.Raw(b"1"), owner="ghost", stamp=1, by="other1")
            news = News("other", 1, "", 1, 0, 1, [KnownChange(change.encode(), CHANGE, 0.0)])
            members, failures = here.node.presence.members, iter(range(3))

            async def away(channel: str) -> Sequence[Member]:
                if next(failures, None) is not None:
                    raise StoreUnavailable("presence is away for the test")
                return await members(channel)

            monkeypatch.setattr(here.node.presence, "members", away)
            replica = Maps.of(here.node)._replica("board")
            assert isinstance(replica, SharedReplica)
            replica._merge(news)
            await until_equal({"k": 1}, here)
            await until_equal({}, here)

    run(main(), 60)


WORKER = """
import asyncio, sys
from engine.support import PLAIN, connect
from tidewire import Hub
from sessions.test_shared_maps import CHANNELS

async def main():
    async with Hub(sys.argv[1], channels=CHANNELS) as hub:
        ann = await connect(hub.node, PLAIN, user="ann")
        await hub.set("board", "ann", 1, owner=ann.connection.id)
        await hub.set("board", "stays", 1)
        print("set", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_entries_of_a_killed_process_leave_within_its_lease(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/chat.db"
        async with hubs(url, 1) as (hub,):
            assert await values(hub) == {}
            command = [sys.executable, "-c", WORKER, url]
            worker = await asyncio.create_subprocess_exec(*command, stdout=-1, cwd=Path(__file__).parents[1])
            try:
                assert worker.stdout is not None
                assert await worker.stdout.readline() == b"set\n"
                await until_equal({"ann": 1, "stays": 1}, hub)
            finally:
                worker.kill()
                await worker.wait()
            started = asyncio.get_running_loop().time()
            await until_equal({"stays": 1}, hub)
            assert asyncio.get_running_loop().time() - started < 18

    run(main(), 90)


def test_a_late_node_takes_a_large_map_whole(url: str) -> None:
    async def main() -> None:
        async with hubs(url) as (here, there):
            for n in range(200):
                await here.set("board", f"k{n}", "x" * 1_000)
            assert len(await values(there)) == 200
            with pytest.raises(LimitExceeded, match="map_bytes"):
                await there.set("board", "more", "x" * 60_000)

    run(main(), 60)


def test_it_is_no_row_and_nothing_is_compared(tmp_path: Path) -> None:
    async def main() -> None:
        async with hubs(f"sqlite:///{tmp_path}/chat.db") as (here, there):
            await values(there)
            for n in range(50):
                await here.set("board", f"k{n % 5}", n)
            await until_equal(await values(here), there)
            for expect in (0, 1):
                with pytest.raises(BadRequest, match="is kept"):
                    await here.set("board", "a", 1, expect=expect)
            with pytest.raises(LimitExceeded, match="too large"):
                await here.set("board", "a", "x" * 65_000)
            await here.publish("board", {"key": "k0", "value": "forged", "stamp": 10**9, "by": "x"})
            assert (await values(here))["k0"] == 45
        with sqlite3.connect(tmp_path / "chat.db") as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            text = "".join(str(list(database.execute(f"SELECT * FROM {name}"))) for name in tables)
        assert '"k' not in text

    run(main(), 60)
