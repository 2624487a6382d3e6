"""Several real nodes on one real store, clients that come and go, and a model of what each must have seen."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.reader import Kept, Reader

__all__ = ("CHANNELS", "Client", "NodeProcess", "Store", "World")

CHANNELS = ("a", "b")
#: Seconds within which a node answers, what was acknowledged is shown, and the members of a dead node are gone.
ANSWER, ARRIVAL, GHOSTS = 20.0, 20.0, 16.0


@dataclass
class Store:
    """A running store: the URL of it, how many nodes it takes, and how it loses everything (None: it cannot)."""

    url: str
    nodes: int = 2
    lose: Callable[[], None] | None = None
    #: Its nodes must be closed while it loses everything.
    loses_offline: bool = False
    #: What it kept is gone with its only node.
    is_node: bool = False


class NodeProcess:
    """A node in a process of its own; asked one thing at a time."""

    def __init__(self, url: str) -> None:
        tests = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "node.py"), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"PYTHONPATH": str(tests)},
        )
        assert self.answer() == "ready"

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], ANSWER)
        assert readable, f"a node did not answer within {ANSWER:g} s"
        line = stdout.readline()
        assert line, "a node ended by itself"
        return json.loads(line)

    def ask(self, do: str, **arguments: Any) -> Any:
        self.send(do, **arguments)
        return self.answer()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._end()

    def close(self) -> None:
        if self._process.poll() is None:
            self.ask("close")
        self._end()

    def _end(self) -> None:
        self._process.wait(ANSWER)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@dataclass
class Client:
    """A client: the node that it is connected to, and what it knows of each channel."""

    name: str
    node: int | None = None
    follows: set[str] = field(default_factory=set)
    readers: dict[str, Reader] = field(default_factory=dict)


class World:
    """Takes steps, and judges after each what the clients were shown."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.nodes = [NodeProcess(store.url) for _ in range(store.nodes)]
        self.kept = {channel: Kept() for channel in CHANNELS}
        self.clients: dict[str, Client] = {}
        self._texts = itertools.count(1)
        self._was_killed = False

    # Steps.

    def publish(self, channel: str, counts: list[int]) -> None:
        """Publish from all nodes at once, from each so many."""
        asked = [(node, self._new(count)) for node, count in zip(self.nodes, counts, strict=False) if count]
        for node, texts in asked:
            self.kept[channel].unknown.update(texts)
            node.send("publish", channel=channel, texts=texts)
        for node, _ in asked:
            for text, *told in node.answer():
                self._told(channel, text, told)
        self.read()

    def _new(self, count: int) -> list[str]:
        return [f"m{next(self._texts)}" for _ in range(count)]

    def _told(self, channel: str, text: str, told: list[Any]) -> None:
        kept = self.kept[channel]
        if told[0] != "unknown":
            kept.unknown.discard(text)
        if len(told) == 2:
            offset, epoch = told
            before = kept.acknowledged.setdefault(epoch, {}).setdefault(offset, text)
            assert before == text, f"offset {offset} was given to {before!r} and to {text!r}"

    def join(self, name: str, node: int, history: int) -> None:
        """Connect a client; where it was before, it recovers what it missed."""
        client = self.clients.setdefault(name, Client(name))
        if client.node is not None:
            return
        client.node, client.follows = node % len(self.nodes), set(CHANNELS)
        since = {channel: self._position(client, channel) for channel in CHANNELS}
        assert self.nodes[client.node].ask("join", client=name, since=since, history=history) is None
        self.read()

    def _position(self, client: Client, channel: str) -> tuple[int, str] | None:
        reader = client.readers.setdefault(channel, Reader(self.kept[channel]))
        reader.since = reader.position
        return reader.since

    def leave(self, name: str) -> None:
        """Let a client vanish."""
        client = self.clients.get(name)
        if client is None or client.node is None:
            return
        self.read()
        assert self.nodes[client.node].ask("leave", client=name) is None
        client.node, client.follows = None, set()

    def follow(self, name: str, channel: str, history: int) -> None:
        """Let a connected client follow a channel no longer, and at once again from where it was."""
        client = self.clients.get(name)
        if client is None or client.node is None:
            return
        node = self.nodes[client.node]
        node.ask("unsubscribe", client=name, channel=channel)
        self.read()
        position = self._position(client, channel)
        node.ask("subscribe", client=name, channel=channel, since=position, history=history)
        self.read()

    def kill(self, node: int, channel: str, count: int) -> None:
        """Kill a node while it publishes, and start another in its place."""
        self.read()
        node %= len(self.nodes)
        texts = self._new(count)
        self.kept[channel].unknown.update(texts)
        if texts:
            self.nodes[node].send("publish", channel=channel, texts=texts)
        self.nodes[node].kill()
        self._was_killed = True
        for client in self.clients.values():
            if client.node == node:
                client.node, client.follows = None, set()
        self.nodes[node] = NodeProcess(self.store.url)
        if self.store.is_node:
            self._begin_anew()
        self.read()

    def trim(self, channel: str) -> None:
        """Remove a channel's history."""
        self.settle()
        self.nodes[0].ask("trim", channel=channel)
        kept = self.kept[channel]
        kept.removed = {epoch: max(offsets) for epoch, offsets in kept.acknowledged.items() if offsets}

    def lose(self) -> None:
        """Let the store lose everything; the next publication begins another epoch."""
        if self.store.lose is None:
            return
        self.settle()
        if self.store.loses_offline:
            for node in self.nodes:
                node.close()
            for client in self.clients.values():
                client.node, client.follows = None, set()
        self.store.lose()
        if self.store.loses_offline:
            self.nodes = [NodeProcess(self.store.url) for _ in range(self.store.nodes)]
        self._begin_anew()
        self.settle()

    def _begin_anew(self) -> None:
        """Note that every epoch is lost, and publish, so that there is another one."""
        for channel, kept in self.kept.items():
            kept.lost.update(kept.acknowledged)
            self._publish_anew(channel)

    def _publish_anew(self, channel: str) -> None:
        """Publish until the store takes it again."""
        count, end = len(self._acknowledged(channel)), time.monotonic() + ARRIVAL
        while len(self._acknowledged(channel)) == count:
            assert time.monotonic() < end, "the store takes nothing any more"
            self.publish(channel, [1])

    def _acknowledged(self, channel: str) -> list[str]:
        return [text for texts in self.kept[channel].acknowledged.values() for text in texts.values()]

    # Judging.

    def read(self) -> None:
        """Read what the clients were shown, and judge it."""
        for node in self.nodes:
            for name, lines in node.ask("shown").items():
                for line in lines:
                    self._read_line(self.clients[name], line)

    @staticmethod
    def _read_line(client: Client, line: str) -> None:
        kind, channel, *rest = line.split(" ")
        if channel not in client.readers:  # the user's own
            return
        reader = client.readers[channel]
        if kind == "s":
            reader.subscribed(int(rest[0]), rest[1], rest[2], int(rest[3]))
        elif kind == "p":
            reader.published(int(rest[0]), rest[1], rest[2])
        elif kind == "i":
            reader.insufficient()

    def settle(self) -> None:
        """Wait until every connected client was shown the newest of what it follows, and judge everything."""
        end = time.monotonic() + ARRIVAL
        while True:
            self.read()
            behind = [
                f"{client.name} in {channel} at {client.readers[channel].position}"
                for client in self.clients.values()
                for channel in client.follows
                if not self._has_arrived(client, channel)
            ]
            if not behind:
                break
            assert time.monotonic() < end, f"not shown within {ARRIVAL:g} s: {behind}; newest: {self._newest()}"
            time.sleep(0.005)
        for client in self.clients.values():
            for reader in client.readers.values():
                reader.check()

    def _newest(self) -> dict[str, tuple[str, int]]:
        newest = {}
        for channel, kept in self.kept.items():
            epoch = next(reversed(kept.acknowledged), "")
            newest[channel] = epoch, kept.top(epoch)
        return newest

    def _has_arrived(self, client: Client, channel: str) -> bool:
        epoch, offset = self._newest()[channel]
        return not epoch or client.readers[channel].has_reached(epoch, offset)

    def check_presence(self) -> None:
        """Every node lists who follows a channel, and nobody else."""
        end = time.monotonic() + (GHOSTS if self._was_killed else ARRIVAL)
        for channel in CHANNELS:
            truth = sorted(client.name for client in self.clients.values() if channel in client.follows)
            for node in self.nodes:
                while (told := node.ask("members", channel=channel)) != truth:
                    assert time.monotonic() < end, f"presence of {channel}: {told}, and the truth is {truth}"
                    time.sleep(0.1)

    def close(self) -> None:
        """End the nodes."""
        for node in self.nodes:
            node.close()
