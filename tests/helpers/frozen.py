"""A store that stands still for a while, and what every node on it does then."""

from __future__ import annotations

import asyncio

import pytest

from engine.support import connect
from helpers.ledger import Ledger, check, received
from helpers.stores import Daemon
from tidewire.engine.node import Node
from tidewire.errors import NotPublished, PublishUnconfirmed, StoreUnavailable
from tidewire.testing import wait_until

__all__ = ("check_frozen_then_thawed",)

#: Seconds: less than a publish may take, and enough for a busy machine.
_AT_ONCE = 0.1


async def check_frozen_then_thawed(
    server: Daemon,
    node: Node,
    seconds: float,
    *,
    tasks: int = 40,
    has_holes: bool = False,
) -> None:
    """Freeze a store while a node publishes: what was on its way fails, then all at once, and no tasks pile up."""
    client = await connect(node, channel="a")
    ledger = Ledger(node)
    async with ledger.publishing():
        await wait_until(lambda: len(ledger.kept) > 50)
        server.freeze()
        frozen = asyncio.get_running_loop().time()
        sent = set(ledger.waiting)
        await wait_until(lambda: not sent & ledger.waiting, 20, "what was on its way fails")
        await wait_until(lambda: len(ledger.failures) > 100, what="publishing fails")
        with pytest.raises(StoreUnavailable):
            await node.broker.history("a")
        assert len(asyncio.all_tasks()) < tasks
        await asyncio.sleep(max(0.0, frozen + seconds - asyncio.get_running_loop().time()))
        server.thaw()
        await ledger.succeeds(50)
    assert {type(error) for error, _ in ledger.failures} == {NotPublished, PublishUnconfirmed}
    slow = [taken for _, taken in ledger.failures if taken > _AT_ONCE]
    assert len(slow) < len(ledger.failures) / 5
    await received(client, ledger)
    check(client, ledger, has_holes=has_holes)
