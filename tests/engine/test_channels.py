"""The delivery of channels: begun, dropped, and what a failing store does to it."""

from __future__ import annotations

import pytest

from tidewire.errors import StoreUnavailable

from .support import FailingBroker, connect, open_node, run


def test_channels_that_could_not_be_dropped_are_dropped_when_the_store_is_back() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node)
            for number in range(5):
                await client.subscribe(f"c{number}")
            client.link.vanish()
            broker.away()
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await node.channels.sweep()
            broker.back()
            await node.channels.sweep()
            assert set(node.registry.channels) == {"$control"}

    run(main())
