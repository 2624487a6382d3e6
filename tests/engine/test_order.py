"""Several nodes on one store: every subscriber of a channel sees the same order."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tidewire.backends.sqlite import SqliteBroker, SqlitePresence
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.messages import Position, Publication
from tidewire.testing import wait_until

from .support import connect, open_node, publish, run

NODES, PUBLISHERS, EACH = 3, 3, 60


def test_every_subscriber_on_every_node_sees_the_same_order(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "chat.db"
        nodes = [Node(SqliteBroker(path, Limits()), SqlitePresence(path)) for _ in range(NODES)]
        for node in nodes:
            await node.start()
        clients = [await connect(node, channel="a") for node in nodes for _ in range(3)]

        async def talk(node: Node, name: str) -> None:
            for number in range(EACH):
                await publish(node, f"{name}-{number}")

        await asyncio.gather(*(talk(node, f"{i}{j}") for i, node in enumerate(nodes) for j in range(PUBLISHERS)))
        expected = NODES * PUBLISHERS * EACH
        await wait_until(lambda: all(len(client.offsets()) == expected for client in clients), 15.0)
        first = clients[0].shown[1:]
        assert all(client.shown[1:] == first for client in clients)
        assert clients[0].offsets() == sorted(set(clients[0].offsets()))
        texts = [text.split(" ")[4] for text in first]
        for i in range(NODES):
            for j in range(PUBLISHERS):
                mine = [text for text in texts if text.startswith(f"{i}{j}-")]
                assert mine == [f"{i}{j}-{number}" for number in range(EACH)], "each publisher's own order is kept"
        middle = first[expected // 2].split(" ")
        late = await connect(nodes[2])
        reply = await late.subscribe(since=Position(int(middle[2]), middle[3]), history=100)
        shown = [text for text in late.shown if text.startswith("p ")]
        assert shown == (first[expected // 2 + 1 :] if reply.recovered else first[-100:])
        for client in (*clients, late):
            client.link.vanish()
        for node in nodes:
            await node.aclose()

    run(main(), 30.0)


def test_a_late_publication_of_an_epoch_that_is_over_is_left_out_after_one_read() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await connect(node, channel="a")
            await publish(node, "kept")
            await wait_until(lambda: len(client.offsets()) == 1)
            node.channels.deliver([Publication("a", 1, 0, "over", 0.0, b"old")])
            await publish(node, "next")
            await wait_until(lambda: len(client.offsets()) == 2)
            gaps = node.channels.gaps
            await asyncio.sleep(0.05)
            assert node.channels.gaps == gaps, "history is not read again and again"
            assert client.offsets() == [1, 2]

    run(main(), 10.0)
