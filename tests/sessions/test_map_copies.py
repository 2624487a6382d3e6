"""The whole copies of a kept map: whatever happens, history reaches back to the newest one that the store has."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from engine.support import run
from sessions.test_maps import two_hubs, values
from tidewire import ChannelOptions, Hub, LimitExceeded, NotPublished, StoreUnavailable
from tidewire.channels import copies
from tidewire.messages import Position, PublishRequest
from tidewire.testing import wait_until


class Store:
    """The store of a hub, whose copies of maps take a while; it may refuse them, and counts what waits for it."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self._publish = hub.node.broker.publish
        #: The offsets of the newest copy, and how many publications were behind it at most.
        self.copied_at = self.most_behind = 0
        self.refuses = False
        self.waiting = Counter[str]()
        self.most_waiting = 0
        monkeypatch.setattr(hub.node.broker, "publish", self.publish)

    async def publish(self, request: PublishRequest) -> Position:
        is_copy = request.channel == copies("board")
        if is_copy and self.refuses:
            raise NotPublished("not now")
        copied_at = int(request.key.rpartition(":")[2]) if is_copy else 0
        self.waiting[request.channel] += 1
        self.most_waiting = max(self.most_waiting, self.waiting["board"])
        await asyncio.sleep(0.01)
        self.waiting[request.channel] -= 1
        position = await self._publish(request)
        if is_copy:
            self.copied_at = max(self.copied_at, copied_at)
        else:
            self.most_behind = max(self.most_behind, position.offset - self.copied_at)
        return position


@pytest.mark.parametrize("size", [2, 3, 10])
def test_a_burst_pushes_no_change_out_of_history_that_no_copy_has(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such entries were lost where the process was killed, and to nodes that began to read."""

    async def main() -> None:
        async with Hub(channels={"*": ChannelOptions(history_size=size)}) as hub:
            store = Store(hub, monkeypatch)
            await asyncio.gather(*(hub.set("board", f"k{n}", n) for n in range(60)))
            await asyncio.gather(*(hub.unset("board", f"k{n}") for n in range(30)))
            assert 0 < store.most_behind <= size
            assert await values(hub) == {f"k{n}": n for n in range(30, 60)}

    run(main(), 60)


def test_changes_wait_for_a_copy_no_longer_than_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        limits, channels = {"publish_seconds": 0.1}, {"*": ChannelOptions(history_size=4)}
        async with Hub(limits=limits, channels=channels) as hub:
            store = Store(hub, monkeypatch)
            store.refuses = True
            changes = [asyncio.create_task(hub.set("board", f"k{n}", n)) for n in range(6)]
            given_up = asyncio.create_task(hub.set("board", "given up", 1))
            await asyncio.sleep(0)
            given_up.cancel()
            outcomes = await asyncio.gather(*changes, return_exceptions=True)
            refused = [one for one in outcomes if isinstance(one, BaseException)]
            assert refused
            assert {type(one) for one in refused} == {StoreUnavailable}
            assert len(await values(hub)) == len(outcomes) - len(refused)
            store.refuses = False
            await asyncio.gather(*(hub.set("board", f"k{n}", n) for n in range(6)))
            assert await values(hub) == {f"k{n}": n for n in range(6)}
            assert store.most_behind <= 4

    run(main(), 60)


def test_other_publications_hide_no_entry_from_a_node_that_begins(tmp_path: Path) -> None:
    async def main() -> None:
        channels = {"*": ChannelOptions(history_size=8)}
        async with two_hubs(f"sqlite:///{tmp_path}/chat.db", channels=channels) as (here, there):
            await here.set("board", "a", 1)
            await asyncio.gather(*(here.publish("board", "noise") for _ in range(20)))
            assert await values(there) == {"a": 1}

    run(main(), 60)


def test_a_short_history_hides_no_entry_either(url: str) -> None:
    async def main() -> None:
        async with two_hubs(url, channels={"*": ChannelOptions(history_seconds=2)}) as (here, there):
            await here.set("board", "a", 1)

            async def is_over() -> bool:
                return not (await here.history("board")).publications

            await wait_until(is_over, limit=15)
            assert (await here.node.broker.history(copies("board"))).publications
            assert await values(there) == {"a": 1}

    run(main(), 60)


def test_a_large_entry_can_be_changed() -> None:
    async def main() -> None:
        async with Hub(limits={"map_bytes": 1_000}) as hub:
            for letter in "abc":
                await hub.set("board", "text", letter * 600)
            with pytest.raises(LimitExceeded, match="map_bytes"):
                await hub.set("board", "text", "d" * 1_000)
            with pytest.raises(LimitExceeded, match="map_bytes"):
                await hub.set("board", "other", "d" * 400)
            assert await values(hub) == {"text": "c" * 600}

    run(main())


def test_entries_whose_time_is_over_are_removed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, thousands of them stayed for seconds after their time."""

    async def main() -> None:
        async with Hub() as hub:
            await asyncio.gather(*(hub.set("board", f"k{n}", n, ttl=0.2) for n in range(100)))
            await hub.set("board", "renewed", 1, ttl=0.2)
            await hub.set("board", "renewed", 2)
            store = Store(hub, monkeypatch)

            async def is_over() -> bool:
                return await values(hub) == {"renewed": 2}

            await wait_until(is_over, limit=15)
            assert store.most_waiting > 10
            await asyncio.gather(*(hub.set("board", f"k{n}", n, ttl=0.2) for n in range(3)))
            await wait_until(is_over, limit=15)

    run(main(), 60)
