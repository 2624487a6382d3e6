"""What several tests of the PostgreSQL store need: nodes, and what a node's closing must leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from engine.support import open_node
from helpers.ledger import RULES, open_files
from tidewire.backends.postgres import open_postgres
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.testing import wait_until

__all__ = ("client_of", "postgres_node")

#: The descriptors before each of the nodes that are open.
_before: list[int] = []


@asynccontextmanager
async def postgres_node(url: str, **limits: Any) -> AsyncIterator[Node]:
    """Open a node on PostgreSQL; when the last one closes, no descriptor is left."""
    _before.append(open_files())
    limits.setdefault("publish_seconds", 1.0)
    broker, presence = open_postgres(url, Limits(**limits))
    async with open_node(broker, presence, rules=RULES, **limits) as node:
        yield node
    before = _before.pop()
    if not _before:  # another one may have opened what it needs later
        await wait_until(lambda: open_files() <= before, what="all descriptors are closed")


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Any]:
    """Connect as an application does."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
