"""Objects that live with a node: one each, and gone with it."""

from __future__ import annotations

import asyncio
import gc
import weakref

from tidewire import Hub
from tidewire.sessions.centrifuge.emulation import Emulation
from tidewire.sessions.maps import Maps
from tidewire.sessions.per_node import PerNode


def test_each_node_has_one_of_each_class() -> None:
    class Other(PerNode):
        pass

    async def main() -> None:
        async with Hub() as one, Hub() as two:
            assert Other.known(one.node) is None
            assert Other.of(one.node) is Other.of(one.node) is Other.known(one.node)
            assert Other.of(one.node) is not Other.of(two.node)
            assert isinstance(Maps.of(one.node), Maps)

    asyncio.run(main())


def test_nothing_of_a_node_is_left_when_its_hub_is_gone() -> None:
    async def main() -> weakref.ref[object]:
        async with Hub() as hub:
            Maps.of(hub.node)
            Emulation.of(hub.node)
            return weakref.ref(hub.node)

    node = asyncio.run(main())
    gc.collect()
    assert node() is None
