"""History against a plain list: every page, in both directions, with every retention, after every trim."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.backends.sqlite.database import Database
from tidewire.backends.sqlite.housekeeping import Trimmer
from tidewire.backends.sqlite.reading import read_history
from tidewire.backends.sqlite.store_clock import StoreClock
from tidewire.messages import HistoryRequest, Position, PublishRequest
from tidewire.retention import Retention

from .helpers import ManualClock, open_node

#: A file system without a disk, where there is one: nothing here is about durability.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

ages = st.sampled_from([0.0, 30.0, 90.0, 1e9])
sizes = st.integers(0, 12)
offsets = st.integers(0, 14)
limits = st.none() | st.integers(0, 6)


class Model:
    """A channel as a list of (offset, age when it was kept)."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, float]] = []
        self.top = 0

    def publish(self, now: float) -> None:
        self.top += 1
        self.kept.append((self.top, now))

    def trim(self, size: int, age: float, now: float) -> None:
        self.kept = [
            (offset, kept)
            for offset, kept in self.kept
            if kept >= now - 60 or (offset > self.top - size and kept >= now - age)
        ]

    def shown(self, retention: Retention | None, now: float) -> list[int]:
        if retention is None:
            return [offset for offset, _ in self.kept]
        lowest, oldest = self.top - retention.size, now - retention.age
        return [offset for offset, kept in self.kept if offset > lowest and kept >= oldest]

    def page(
        self, retention: Retention | None, now: float, since: int | None, limit: int | None, reverse: bool
    ) -> tuple[list[int], bool]:
        shown = self.shown(retention, now)
        if reverse:
            asked = range(1, self.top + 1) if since is None else range(1, min(since, self.top + 1))
            found = [offset for offset in reversed(asked) if offset in shown]
            is_cut = bool(asked) and asked[-1] not in shown and since is not None
            return found[:limit], not is_cut and (since is None or since <= self.top + 1)
        after = 0 if since is None else since
        found = [offset for offset in shown if offset > after]
        missed = [offset for offset in range(after + 1, self.top + 1) if offset not in shown]
        return found[:limit], since is None or (not missed and since <= self.top)


@settings(max_examples=75, deadline=None)
@given(st.data())
def test_pages_are_those_of_a_list(data: st.DataObject) -> None:
    system = ManualClock()
    model = Model()
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        clock = StoreClock(system)
        store = Database(Path(name) / "chat.db", clock)
        for _ in range(data.draw(st.integers(0, 5))):
            keep = Retention(data.draw(sizes), data.draw(ages))
            count = data.draw(st.integers(1, 4))
            store.begin(write=True)
            store.catch_up(set())
            store.keep([PublishRequest("a", b"x", retention=keep)] * count, set())
            store.commit()
            for _ in range(count):
                model.publish(clock.now())
            system.pass_time(data.draw(st.sampled_from([1.0, 45.0, 100.0])))
            if data.draw(st.booleans()):
                trimmer = Trimmer(clock)
                while trimmer.find(store.connection, 1):
                    trimmer.remove(store.connection, 2)
                model.trim(keep.size, keep.age, clock.now())
        for _ in range(5):
            retention = data.draw(st.none() | st.builds(Retention, sizes, ages))
            since, limit, reverse = data.draw(st.none() | offsets), data.draw(limits), data.draw(st.booleans())
            epoch = store.position("a").epoch
            position = None if since is None else Position(since, epoch)
            request = HistoryRequest("a", retention, position, limit, reverse)
            page = read_history(store.connection, request, store.seed, clock)
            expected = model.page(retention, clock.now(), since, limit, reverse)
            assert ([p.offset for p in page.publications], page.complete) == expected
            assert page.top == Position(model.top, epoch)
        store.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "k", "l"])), max_size=8), max_size=6))
def test_what_several_nodes_publish_is_the_same_for_all(turns: list[list[tuple[str, str]]]) -> None:
    async def run(path: Path) -> None:
        async with open_node(path) as one, open_node(path) as other:
            for node in (one, other):
                for channel in "abc":
                    await node.broker.subscribe(channel)
            for turn in turns:
                publishing = [
                    (one, other)[number % 2].publish(channel, key=key) for number, (channel, key) in enumerate(turn)
                ]
                await asyncio.gather(*publishing)
            tops = await one.broker.positions(["a", "b", "c"])
        with sqlite3.connect(path) as connection:
            stored = connection.execute(
                'SELECT name, "offset" FROM tidewire_publications p JOIN tidewire_channels c '
                "ON c.id = p.channel ORDER BY p.id"
            ).fetchall()
        connection.close()
        assert [(p.channel, p.offset) for p in one.delivered] == stored
        assert one.delivered == other.delivered
        for channel, top in tops.items():
            assert one.offsets(channel) == list(range(1, top.offset + 1))
            keyed = {key for turn in turns for name, key in turn if name == channel and key}
            unkeyed = sum(1 for turn in turns for name, key in turn if name == channel and not key)
            assert top.offset == len(keyed) + unkeyed

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name) / "chat.db"))
