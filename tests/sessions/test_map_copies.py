"""The whole copies of a kept map: whatever happens, history reaches back to the newest one that the store has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from backends.redis.helpers import ask
from engine.support import run
from helpers.stores import Daemon, start_redis
from sessions.test_maps import two_hubs, values
from tidewire import BadRequest, ChannelOptions, Hub, LimitExceeded, NotPublished, StoreUnavailable
from tidewire.channels import copies
from tidewire.links.server_exit import ServerExit
from tidewire.messages import Position, PublishRequest
from tidewire.protocols.close_codes import INSUFFICIENT
from tidewire.protocols.map_changes import Change
from tidewire.protocols.meta import CHANGE, PublicationMeta
from tidewire.sessions import map_replica
from tidewire.sessions.maps import Maps
from tidewire.testing import wait_until


class Store:
    """The store of a hub, whose copies of maps take a while; it may refuse them, and counts what waits for it."""

    def __init__(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keep = hub.node.broker.publish
        #: The offsets of the newest copy, and how many publications were behind it at most.
        self.copied_at = self.most_behind = 0
        self.refuses = self.is_narrow = False
        self.waiting = Counter[str]()
        self.most_waiting = 0
        monkeypatch.setattr(hub.node.broker, "publish", self.publish)

    async def publish(self, request: PublishRequest) -> Position:
        is_copy = request.channel == copies("board")
        if is_copy and self.refuses:
            raise NotPublished("not now")
        if is_copy and self.is_narrow:
            raise BadRequest("too large")
        copied_at = int(request.key.rpartition(":")[2]) if is_copy else 0
        self.waiting[request.channel] += 1
        self.most_waiting = max(self.most_waiting, self.waiting["board"])
        await asyncio.sleep(0.01)
        self.waiting[request.channel] -= 1
        position = await self.keep(request)
        if is_copy:
            self.copied_at = max(self.copied_at, copied_at)
        else:
            self.most_behind = max(self.most_behind, position.offset - self.copied_at)
        return position


@asynccontextmanager
async def refusing(monkeypatch: pytest.MonkeyPatch, publish_seconds: float) -> AsyncIterator[tuple[Hub, Store]]:
    """Yield a hub whose map has room for two changes without a copy, and its store, which refuses copies."""
    limits, channels = {"publish_seconds": publish_seconds}, {"*": ChannelOptions(history_size=4)}
    async with Hub(limits=limits, channels=channels) as hub:
        store = Store(hub, monkeypatch)
        store.refuses = True
        yield hub, store


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
        async with refusing(monkeypatch, 0.1) as (hub, store):
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


def test_other_publications_do_not_keep_a_change_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no copy could be kept, and others published there, its call never returned."""

    async def main() -> None:
        async with refusing(monkeypatch, 0.1) as (hub, _):
            await asyncio.gather(*(hub.set("board", f"k{n}", n) for n in range(2)))
            change = asyncio.create_task(hub.set("board", "waiting", 1))
            async with asyncio.timeout(20):
                while not change.done():
                    await hub.publish("board", "noise")
            with pytest.raises(StoreUnavailable):
                change.result()

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


def test_a_map_in_a_channel_that_was_forgotten_is_copied_and_changed_as_before(tmp_path: Path) -> None:
    """Redis forgets a channel that nobody uses, but no copy: offsets began anew, far below that of the old copy.

    No copy was kept for so long, and the changes were lost; nor could a key be changed whose old offset came again.
    """

    async def main(server: Daemon) -> None:
        url, channels = f"redis://127.0.0.1:{server.port}", {"*": ChannelOptions(history_size=8)}
        async with Hub(url, channels=channels) as hub:
            for n in range(30):
                await hub.set("board", f"old{n}", n)
            await hub.set("board", "late", 0)
        assert ask(server.port, "DEL", "tidewire:{board}:meta", "tidewire:{board}:stream") == b":2\r\n"
        expected = {f"old{n}": n for n in range(30)}
        async with Hub(url, channels=channels) as hub:
            for n in range(40):
                assert (await hub.set("board", "late", n)).offset == n + 1
                await values(hub)
            for n in range(20):
                await hub.set("board", f"new{n}", n)
        async with Hub(url, channels=channels) as hub:
            assert await values(hub) == expected | {f"new{n}": n for n in range(20)} | {"late": 39}

    with start_redis(tmp_path) as server:
        run(main(server), 60)


def test_a_server_that_exits_keeps_a_copy_of_the_newest_changes(tmp_path: Path) -> None:
    """A map was read no more from the signal on: what history forgot before the next start was lost."""

    async def main() -> None:
        url = f"sqlite:///{tmp_path}/chat.db"
        async with Hub(url) as hub:
            await hub.set("board", "a", 1)
            ServerExit.of(asyncio.get_running_loop())._exit()
            await asyncio.sleep(0)
            await hub.set("board", "b", 2)
        async with Hub(url) as hub:
            await hub.remove_history("board")
            assert await values(hub) == {"a": 1, "b": 2}

    run(main(), 60)


def test_a_copy_that_comes_late_hides_no_newer_one(tmp_path: Path) -> None:
    async def main() -> None:
        url, channels = f"sqlite:///{tmp_path}/chat.db", {"*": ChannelOptions(history_size=8)}
        async with Hub(url, channels=channels) as here, Hub(url, channels=channels) as there:
            for n in range(20):
                if n == 2:
                    late = msgspec.json.encode(Maps.of(here.node)._replicas["board"].state.copy())
                await here.set("board", f"k{n}", n)
            await here.node.broker.publish(PublishRequest(copies("board"), late))
            assert await values(there) == {f"k{n}": n for n in range(20)}

    run(main(), 60)


def test_changes_that_wait_go_on_when_the_map_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """They waited until they failed, although another node had kept a copy, which gave them room."""

    async def main() -> None:
        async with refusing(monkeypatch, 10) as (hub, store):
            await asyncio.gather(*(hub.set("board", f"k{n}", n) for n in range(2)))
            waiting = asyncio.create_task(hub.set("board", "waiting", 1))
            replica = Maps.of(hub.node)._replicas["board"]
            copy = msgspec.json.encode(replica.state.copy())
            await store.keep(PublishRequest(copies("board"), copy))
            assert not waiting.done()
            for reader in tuple(hub.node.registry.readers.values()):
                reader.end(INSUFFICIENT)
            await waiting

    run(main(), 60)


def test_a_map_that_was_too_large_takes_entries_when_its_history_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Hub(channels={"*": ChannelOptions(history_size=4)}) as hub:
            store = Store(hub, monkeypatch)
            store.is_narrow = True

            async def is_full() -> bool:
                try:
                    await hub.set("board", "a", 1)
                except LimitExceeded:
                    return True
                return False

            await wait_until(is_full)
            store.is_narrow = False
            await hub.remove_history("board")
            for reader in tuple(hub.node.registry.readers.values()):
                reader.end(INSUFFICIENT)

            async def is_free() -> bool:
                return not await is_full() and await values(hub) == {"a": 1}

            await wait_until(is_free)

    run(main(), 60)


def test_a_large_map_is_cleared_some_entries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once were more than may wait for the store, whose other readers were refused then, too."""

    async def main() -> None:
        async with Hub(channels={"*": ChannelOptions(history_size=10_000)}) as hub:
            await asyncio.gather(*(hub.set("board", f"k{n}", n) for n in range(1_000)))
            store = Store(hub, monkeypatch)
            await Maps.of(hub.node).clear("board")
            assert await values(hub) == {}
            assert 10 < store.most_waiting <= 100

    run(main(), 60)


def test_changes_go_on_though_much_came_while_a_copy_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """They waited for another publication in their channel, and failed after some seconds without one."""
    monkeypatch.setattr(map_replica, "_QUIET", 1e6)
    monkeypatch.setattr(map_replica, "_LATER", 1e6)

    async def main() -> None:
        async with Hub(limits={"publish_seconds": 5}, channels={"*": ChannelOptions(history_size=8)}) as hub:
            keep, is_copying, may_go_on = hub.node.broker.publish, asyncio.Event(), asyncio.Event()

            async def publish(request: PublishRequest) -> Position:
                if request.channel == copies("board"):
                    is_copying.set()
                    await may_go_on.wait()
                return await keep(request)

            monkeypatch.setattr(hub.node.broker, "publish", publish)
            changes = [asyncio.create_task(hub.set("board", f"k{n}", n)) for n in range(6)]
            await is_copying.wait()
            await wait_until(lambda: sum(one.done() for one in changes) == 4)
            other = Change("other", msgspec.Raw(b"1"), by="another node")
            await hub.node.publish("board", other.encode(), meta=CHANGE, ephemeral=False)
            top = [await hub.publish("board", "noise") for _ in range(3)][-1]
            replica = Maps.of(hub.node)._replicas["board"]
            await wait_until(lambda: replica.state.position == top)
            may_go_on.set()
            await asyncio.gather(*changes)
            assert await values(hub) == {f"k{n}": n for n in range(6)} | {"other": 1}

    run(main(), 60)


def test_a_map_that_is_read_in_pages_is_given_whole(url: str) -> None:
    """In memory it was given after the first page: entries were missing, and could not be removed."""

    async def main() -> None:
        async with Hub(url, channels={"*": ChannelOptions(history_size=1_000)}) as hub:
            for n in range(20):
                await hub.set("board", "large", f"{n}" * 20_000)
            await hub.set("board", "last", 1)
            replica = Maps.of(hub.node)._replicas["board"]
            for reader in tuple(hub.node.registry.readers.values()):
                reader.end(INSUFFICIENT)
            await wait_until(lambda: not replica._is_ready)
            assert (await values(hub)).keys() == {"large", "last"}

    run(main(), 60)


def test_a_map_in_memory_is_given_where_its_history_ends_with_what_it_does_not_show() -> None:
    async def main() -> None:
        async with Hub(channels={"*": ChannelOptions(history_size=1_000)}) as hub:
            for n in range(20):
                await hub.set("board", "large", f"{n}" * 20_000)
            await hub.set("board", "last", 1)
            hidden = PublicationMeta(skip_history=True).encode()
            await hub.node.publish("board", b'"hidden"', meta=hidden, ephemeral=False)
            replica = Maps.of(hub.node)._replicas["board"]
            for reader in tuple(hub.node.registry.readers.values()):
                reader.end(INSUFFICIENT)
            await wait_until(lambda: not replica._is_ready)
            assert (await values(hub)).keys() == {"large", "last"}

    run(main(), 60)
