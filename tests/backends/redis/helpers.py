"""What several tests of the Redis store need: nodes, beside those of every store."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine.support import connect, open_node
from helpers.ledger import RULES, Ledger, check, open_files, received
from tidewire.backends.redis import open_redis
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.testing import wait_until

__all__ = (
    "RULES",
    "Ledger",
    "ask",
    "check",
    "connect",
    "open_files",
    "received",
    "redis_node",
    "wait_until",
)


def ask(port: int, *command: str) -> bytes:
    """Send one command on a connection of its own, and return the beginning of the answer as it comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        parts = [f"${len(part.encode())}\r\n{part}\r\n" for part in command]
        client.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
        return client.recv(65_536)


@asynccontextmanager
async def redis_node(url: str, **limits: Any) -> AsyncIterator[Node]:
    """Open a node on Redis; when it closes, no descriptor is left."""
    before = open_files()
    limits.setdefault("publish_seconds", 1.0)
    broker, presence = open_redis(url, Limits(**limits))
    async with open_node(broker, presence, rules=RULES, **limits) as node:
        yield node
    await wait_until(lambda: open_files() <= before, what="all descriptors are closed")
