"""What several tests of the NATS store need, beside those of every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine.support import open_node
from helpers.ledger import RULES, open_files
from helpers.stores import Daemon
from tidewire.backends.nats import NatsAddress, NatsBroker, NatsPresence
from tidewire.backends.shared.outage import Outage
from tidewire.engine.node import Node
from tidewire.limits import Limits
from tidewire.testing import wait_until

__all__ = ("address_of", "broker_on", "nats_node", "url")


def url(server: Daemon, stream: str = "TIDEWIRE") -> str:
    return f"nats://127.0.0.1:{server.port}?stream={stream}"


def address_of(server: Daemon, stream: str = "TIDEWIRE") -> NatsAddress:
    return NatsAddress.from_url(url(server, stream))


def broker_on(server: Daemon, stream: str = "TIDEWIRE", **limits: Any) -> NatsBroker:
    return NatsBroker(address_of(server, stream), Limits(**limits))


@asynccontextmanager
async def nats_node(server: Daemon, lease: float = 8.0, **limits: Any) -> AsyncIterator[Node]:
    """Open a node on NATS; when it closes, no descriptor is left."""
    before = open_files()
    limits.setdefault("publish_seconds", 1.0)
    address, options = address_of(server), Limits(**limits)
    outage = Outage(f"NATS at {address.shown}")
    presence = NatsPresence(address, options, lease=lease, outage=outage)
    async with open_node(NatsBroker(address, options, outage), presence, rules=RULES, **limits) as node:
        yield node
    await wait_until(lambda: open_files() <= before, what="all descriptors are closed")
