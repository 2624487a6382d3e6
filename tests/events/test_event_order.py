"""Nodes tell of one user in any interleaving, and die or stall in the middle: what is yielded comes true."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

import msgspec
import pytest

from tidewire.events import event_order
from tidewire.events.event_kinds import KeptEvent
from tidewire.events.event_order import EventOrder, Known
from tidewire.messages import Publication

RUNS = int(os.environ.get("EVENT_ORDER_RUNS", "1000"))
NODES = 3
LEASE = 12.0
JOINED = KeptEvent("joined", "room:1", "ann", "ann")
LEFT = KeptEvent("left", "room:1", "ann", "ann")
#: What a node does: a generator that stops before each request to the store.
Work = Iterator[None]

#: Events between two checkpoints.
INTERVAL = 10
KINDS = [*8 * ["go"], *3 * ["enter"], *3 * ["leave"], *2 * ["wait"], "kill", "stall", "wake", "close", "look"]
TAKEN_OVER = [*KINDS, *3 * ["others"], *3 * ["look"], *3 * ["take over"]]


class Node:
    """What a worker knows: its members, and those of them that stay."""

    def __init__(self) -> None:
        self.is_stalled = False
        self.seen = 0.0
        self.here: list[str] = []
        self.begun: set[str] = set()
        self.own: set[str] = set()
        self.work: list[Work] = []


class World:
    """A store of one user's members and events, its nodes, and one reader."""

    def __init__(self) -> None:
        self.now = 100.0
        self.nodes = [Node() for _ in range(NODES)]
        self.members: dict[str, Node] = {}
        self.hidden: set[str] = set()
        self.departures: list[str] = []
        self.stream: list[Publication] = []
        self.keys: set[str] = set()
        self.order = EventOrder()
        self.read = 0
        self.checkpoint: tuple[int, bool | None, bytes] = (0, None, b"[]")
        self.found: list[str] = []
        self.ids: set[str] = set()
        self.names = map(str, itertools.count(1))

    # The store.

    def tell(self, event: KeptEvent, key: str) -> None:
        if key not in self.keys:
            self.keys.add(key)
            previous = len(self.stream)
            data = msgspec.json.encode(event)
            self.stream.append(Publication("$happened", previous + 1, previous, "e", self.now, data))

    def is_live(self, node: Node) -> bool:
        return node.seen + LEASE > self.now

    def count(self) -> int:
        return sum(self.is_live(node) and token not in self.hidden for token, node in self.members.items())

    def quit(self, token: str) -> bool:
        self.hidden.discard(token)
        return self.members.pop(token, None) is not None and not self.members

    def claim(self) -> None:
        for token, node in list(self.members.items()):
            if not self.is_live(node) and self.quit(token):
                self.departures.append(f"{token} {next(self.names)}")  # a token of its own for each departure

    # What nodes do.

    def enter(self, node: Node, token: str) -> Work:
        yield
        is_first = not self.members
        self.members[token] = node
        node.own.add(token)
        is_known = bool(node.here)
        node.here.append(token)
        if is_first or not is_known:
            yield
            self.tell(msgspec.structs.replace(JOINED, again=not is_first), f"begin:{token}")
        node.begun.add(token)

    def leave(self, node: Node, token: str) -> Work:
        node.here.remove(token)
        yield
        is_alone = self.count() == 1
        if is_alone:
            yield
            self.tell(LEFT, f"end:{token}")
        yield
        node.own.discard(token)
        was_last = self.quit(token)
        if was_last and not is_alone:  # at once: a node that is killed just here leaves it untold
            self.tell(LEFT, f"end:{token}")
        elif is_alone and not was_last:
            yield
            if self.count():
                yield
                self.tell(msgspec.structs.replace(JOINED, again=True), f"again:{token}")

    def come_back(self, node: Node) -> Work:
        for token in list(node.own):
            yield
            if token in node.own:
                self.members[token] = node
        if node.here:
            token = node.here[0]
            yield
            self.tell(msgspec.structs.replace(JOINED, again=True), f"back:{token}:{next(self.names)}")

    def announce(self) -> Work:
        yield
        for token in self.departures:
            self.tell(msgspec.structs.replace(LEFT, again=True), f"claim:{token}")
        self.departures.clear()

    # What happens.

    def step(self, what: str, number: int) -> None:
        self.now += 0.05
        index = number % NODES
        node = self.nodes[index]
        for one in self.nodes:
            if not one.is_stalled and self.is_live(one):
                one.seen = self.now
        if what == "enter" and not node.is_stalled:
            node.seen = self.now
            node.work.append(self.enter(node, next(self.names)))
        elif what == "leave" and not node.is_stalled:
            begun = [token for token in node.here if token in node.begun]
            if begun:
                work = self.leave(node, begun[number // NODES % len(begun)])
                next(work)
                node.work.append(work)
        elif what == "go":
            ready = [one for one in self.nodes if one.work and not one.is_stalled]
            if ready:
                self.go_on(ready[number % len(ready)], number // NODES)
        elif what == "kill":
            self.nodes[index] = Node()
        elif what == "close":
            self.hidden.update(node.own & set(self.members))
            self.nodes[index] = Node()
        elif what == "stall":
            node.is_stalled = True
        elif what == "wake":
            self.wake(node)
        elif what == "wait":
            self.wait(number % 30)
        elif what == "look":
            self.look()
        elif what == "others":
            self.others(number)
        elif what == "take over":
            self.take_over(number)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            for node in self.nodes:
                if not node.is_stalled and (self.is_live(node) or not node.own):
                    node.seen = self.now
        self.claim()
        if self.departures:
            self.nodes[0].work.append(self.announce())

    def wake(self, node: Node) -> None:
        if node.is_stalled:
            node.is_stalled = False
            if not self.is_live(node):
                node.work.append(self.come_back(node))
            node.seen = self.now

    def go_on(self, node: Node, number: int) -> None:
        if node.work and not node.is_stalled:
            work = node.work[number % len(node.work)]
            if next(work, self) is self:
                node.work.remove(work)

    def read_on(self, most: int) -> None:
        """Read so many events, and keep a checkpoint now and then."""
        for publication in self.stream[self.read : self.read + most]:
            for event in self.order.take(publication):
                if event.user == "ann" and event.id not in self.ids:
                    self.ids.add(event.id)
                    self.found.append(event.kind)
            self.read += 1
        if self.read >= self.checkpoint[0] + INTERVAL:
            self.checkpoint = (self.read, self.order.has_seen_all, msgspec.json.encode(list(self.order.known())))

    def look(self) -> None:
        self.read_on(len(self.stream))
        for end in self.order.overdue():
            self.tell(end, f"missing {end.missing}")
        for begin in self.order.doubtful():
            is_there = self.count() > 0 if begin.member == "ann" else int(begin.member) % 50 == 7
            missing = self.order.settle(begin, is_there=is_there)
            if missing is not None:
                self.tell(missing, f"missing {missing.missing}")

    def others(self, number: int) -> None:
        """Let others come and go, who look meanwhile; some stay."""
        for user in itertools.islice(self.names, number // 5):
            for kind in ("joined",) if int(user) % 50 == 7 else ("joined", "left"):
                self.tell(KeptEvent(kind, "room:1", user, user), f"{kind}:{user}")
            if int(user) % 4 == 0:
                self.look()

    def take_over(self, number: int) -> None:
        """Kill the reader, some before they have read all; the next one goes on from the checkpoint."""
        if number % 2:
            self.read_on(number // 2 % 4)
        place, has_seen_all, known = self.checkpoint
        before, self.order = [one[:3] for one in self.order.known() if one.last], EventOrder()
        self.order.has_seen_all = has_seen_all
        self.order.learn(msgspec.json.decode(known, type=list[Known]))
        for publication in self.stream[place : self.read]:
            self.order.take(publication)
        assert [one[:3] for one in self.order.known() if one.last] == before

    def calm(self) -> None:
        """Let all that goes on end, and what is missing be noticed."""
        for node in self.nodes:
            self.wake(node)
        for _ in range(60):
            for node in self.nodes:
                while node.work:
                    self.go_on(node, 0)
            self.look()
            self.wait(1)

    def shown(self) -> list[str]:
        return [f"{one.time:.1f} {one.data.decode()}" for one in self.stream]


def test_an_end_that_presence_knew_is_doubted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that has stalled with thousands of users is not done with its members when presence is asked."""
    world = World()
    monkeypatch.setattr(event_order, "_now", lambda: world.now)
    world.tell(msgspec.structs.replace(JOINED, again=True), "begin")
    node = world.nodes[0]
    for _ in range(90):
        world.look()
        world.now += 1.0
        node.seen = world.now
        if world.now > 140.0:
            world.members["1"] = node
    assert world.found == ["joined", "left", "joined"]


@pytest.mark.parametrize("kinds", [KINDS, TAKEN_OVER], ids=["one reader", "taken over"])
def test_what_was_told_is_true_when_all_is_calm(kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(RUNS):
        source, world = random.Random(seed), World()
        monkeypatch.setattr(event_order, "_now", lambda world=world: world.now)
        for _ in range(source.randrange(5, 80)):
            world.step(source.choice(kinds), source.randrange(100))
        world.calm()
        told = list(world.found)
        assert told == (["joined", "left"] * len(told))[: len(told)], (seed, world.shown())
        assert bool(len(told) % 2) == (world.count() > 0), (seed, world.shown())
        world.calm()
        assert told == world.found, "nothing is told when nothing happens"
