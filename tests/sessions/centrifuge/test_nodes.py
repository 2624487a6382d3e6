"""Sessions of two nodes on one store: publications, joins and leaves, presence, and what the application asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.support import run
from sessions.centrifuge.support import PATTERNS, PROTOBUF, connect, names
from tidewire.backends import open_backend
from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.protocols.meta import is_history
from tidewire.rules.base import Grant
from tidewire.rules.options_by_name import OptionsByName
from tidewire.sessions.centrifuge import session_orders
from tidewire.testing import wait_until


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[tuple[Node, Node]]:
    nodes = []
    for _ in range(2):
        broker, presence = open_backend(f"sqlite:///{folder}/store.db", Limits())
        nodes.append(Node(broker, presence, limits=Limits(), options=OptionsByName(PATTERNS), is_shown=is_history))
        await nodes[-1].start()
    try:
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            await node.aclose()


def test_two_nodes_are_as_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_nodes(tmp_path) as (here, there):
            ann = await connect(here, "user:ann", channel="recovery:a")
            await ann.wait_pushes("join")
            bob = await connect(there, "user:bob", channel="recovery:a", protocol=PROTOBUF)
            await ann.wait_pushes("join", 2)
            for number in range(5):
                await bob.ask("publish", channel="recovery:a", data=number)
            await ann.wait_pushes("pub", 5)
            await bob.wait_pushes("pub", 5)
            assert ann.data() == bob.data() == list(range(5))
            found = (await ann.ask("presence", channel="recovery:a"))["presence"]
            assert set(found) == {ann.connection.id, bob.connection.id}
            await session_orders.subscribe(here, "bob", "history:b", Grant(ChannelOptions()))
            assert (await bob.wait_pushes("subscribe"))[0]["channel"] == "history:b"
            await session_orders.disconnect(here, "bob", client=bob.connection.id)
            await bob.wait_closed(3503)
            await ann.wait_pushes("leave")
            assert [names(ann.pushes(channel="recovery:a"))[at] for at in (0, 1, -1)] == ["join", "join", "leave"]
            assert not await there.presence.count("$events:recovery:a", bob.connection.id)

    run(main())


@pytest.mark.slow  # the lease of a node that has ended: the stores prove it with shorter ones
def test_who_goes_with_its_node_is_told_as_left_by_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with two_nodes(tmp_path) as (here, there):
            ann = await connect(here, "user:ann", channel="recovery:a")
            bob = await connect(there, "user:bob", channel="recovery:a")
            await ann.wait_pushes("join", 2)
            await there.aclose()
            assert bob.link.closed_with == (3001, "shutdown")
            await wait_until(
                lambda: bool(ann.pushes("leave")), limit=25, what="the leave of who has gone with its node"
            )
            left = ann.pushes("leave")
            assert left == [{"channel": "recovery:a", "leave": {"info": {"user": "bob", "client": bob.connection.id}}}]
            assert set((await ann.ask("presence", channel="recovery:a"))["presence"]) == {ann.connection.id}

    run(main(), limit=40)
