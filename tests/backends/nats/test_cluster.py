"""A JetStream cluster of three servers with three replicas, of which one after another dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.serving import free_port, until
from engine.support import connect, open_node, run
from helpers.ledger import RULES, Ledger, check, received
from helpers.stores import Daemon, start_nats
from tidewire.backends.nats import NatsAddress, NatsBroker, NatsPresence
from tidewire.backends.shared.outage import Outage
from tidewire.engine.node import Node
from tidewire.errors import StoreUnavailable
from tidewire.limits import Limits
from tidewire.retention import Retention
from tidewire.testing import wait_until

pytestmark = pytest.mark.slow


class Cluster:
    """Three servers; each knows the ports by which the others are reached and watched."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        routes, self.watched = ([free_port() for _ in range(3)] for _ in range(2))
        all_routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers: list[Daemon] = []
        for number in range(3):
            configuration = (
                f"server_name: n{number}\nhttp: 127.0.0.1:{self.watched[number]}\n"
                f"cluster {{ name: c, listen: 127.0.0.1:{routes[number]}, routes: [{all_routes}] }}"
            )
            self.servers.append(stack.enter_context(start_nats(folder / f"n{number}", configuration=configuration)))
        until(self._has_meta_leader, 30, what="the cluster has a leader")

    def _ask(self, number: int, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.watched[number]}{path}", timeout=2) as answer:
            return json.load(answer)

    def _has_meta_leader(self) -> bool:
        meta = self._ask(0, "/jsz").get("meta_cluster", {})
        return bool(meta.get("leader")) and meta.get("cluster_size") == 3

    def leader(self, stream: str = "TIDEWIRE") -> int | None:
        """Return which server leads a stream; None while nobody does."""
        for number, server in enumerate(self.servers):
            if server.process is None:
                continue
            with contextlib.suppress(OSError):
                for account in self._ask(number, "/jsz?streams=1&accounts=1").get("account_details", ()):
                    for found in account.get("stream_detail", ()):
                        leader = found.get("cluster", {}).get("leader", "")
                        if found["name"] == stream and leader and self.servers[int(leader[1:])].process is not None:
                            return int(leader[1:])
        return None

    def led(self) -> int:
        """Return which server leads the stream of publications, when one does."""
        return until(lambda: (self.leader() is not None and [self.leader()]) or None, 30, what="a leader")[0] or 0

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"nats://{hosts}?replicas=3"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path)


@asynccontextmanager
async def cluster_node(cluster: Cluster) -> AsyncIterator[Node]:
    address, options = NatsAddress.from_url(cluster.url), Limits(publish_seconds=3.0)
    outage = Outage(f"NATS at {address.shown}")
    presence = NatsPresence(address, options, lease=8.0, outage=outage)
    async with open_node(NatsBroker(address, options, outage), presence, rules=RULES, publish_seconds=3.0) as node:
        yield node


async def are_members(nodes: list[Node], users: set[str]) -> None:
    """Wait, no longer than presence may be wrong, until all nodes say who is there."""

    async def agree() -> bool:
        for node in nodes:
            try:
                found = await node.presence.members("a")
            except StoreUnavailable:
                return False
            if {member.user for member in found} != users:
                return False
        return True

    await wait_until(agree, 15.0, f"all nodes know {users}")


@pytest.mark.timeout(240)
def test_servers_die_one_after_another(cluster: Cluster) -> None:
    """Nothing acknowledged is lost or twice, the order holds on both nodes, and presence is true within 15 s.

    A subscriber may be told of a gap that a replica which lags behind could not fill.
    """

    async def scenario() -> None:
        async with cluster_node(cluster) as one, cluster_node(cluster) as other:
            clients = [await connect(node, user=f"user {number}") for number, node in enumerate((one, other))]
            for client in clients:
                await client.subscribe("a", present=True)
            ledgers = [Ledger(node) for node in (one, other)]
            for round_ in range(3):
                async with ledgers[0].publishing(2), ledgers[1].publishing(2):
                    await ledgers[0].succeeds(20, 40)
                    leader = await asyncio.to_thread(cluster.led)
                    doomed = leader if round_ % 2 == 0 else (leader + 1) % 3
                    await asyncio.to_thread(cluster.servers[doomed].kill)
                    for ledger in ledgers:
                        await ledger.succeeds(20, 40)
                    await asyncio.to_thread(cluster.servers[doomed].start)
                for ledger in ledgers:
                    await ledger.succeeds(1, 40)
                await are_members([one, other], {"user 0", "user 1"})
            for client in clients:
                for ledger in ledgers:
                    await received(client, ledger, within=30.0)
                check(client, *ledgers, told="i a" in client.shown, has_holes=True)
            kept = {place: text for ledger in ledgers for place, text in ledger.kept.items()}
            for node in (one, other):
                page = await node.broker.history("a", retention=Retention(1_000_000, 3_600.0))
                stored = {(found.epoch, found.offset): found.data.decode() for found in page.publications}
                assert {place: stored.get(place) for place in kept} == kept, "the store has all that it acknowledged"
            assert sum(len(ledger.kept) for ledger in ledgers) >= 120

    run(scenario(), 200)
