"""Replicas that must have it, a primary that Sentinels replace, and a cluster that loses a server."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.serving import free_port, until
from engine.support import Client, run
from helpers.stores import Daemon, start_redis
from tidewire.backends.redis import RedisBroker, RedisPresence
from tidewire.backends.redis.address import parse_address
from tidewire.engine.node import Node
from tidewire.errors import PublishUnconfirmed, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Member
from tidewire.testing import BrokerContract, PresenceContract, StoreUnderTest

from .helpers import Ledger, ask, check, connect, received, redis_node, wait_until


def is_linked(replica: Daemon) -> bool:
    return b"master_link_status:up" in ask(replica.port, "INFO", "replication")


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """A primary, and its replica."""
    with ExitStack() as stack:
        primary = stack.enter_context(start_redis(tmp_path / "primary", "--repl-diskless-sync-delay", "0"))
        source = ("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0")
        replica = stack.enter_context(start_redis(tmp_path / "replica", *source))
        until(lambda: is_linked(replica), what="the replica is linked")
        yield primary, replica


def test_wait_counts_replicas_before_a_publish_counts_as_kept(replicated: tuple[Daemon, Daemon]) -> None:
    primary, replica = replicated

    async def scenario() -> None:
        async with redis_node(f"redis://127.0.0.1:{primary.port}?wait=1", publish_seconds=2.0) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await asyncio.gather(*(ledger.publish(20) for _ in range(5)))
            assert len(ledger.kept) == 100
            replica.freeze()
            with pytest.raises(PublishUnconfirmed, match="0 replicas"):
                await node.publish("a", b"frozen")
            # reading does not wait for replicas
            assert len((await node.broker.history("a")).publications) == 101
            replica.thaw()
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger)

    try:
        run(scenario())
    finally:
        replica.thaw()


def test_a_promoted_replica_begins_a_new_epoch(replicated: tuple[Daemon, Daemon]) -> None:
    """What takes the place of the primary at the same address may have less than was acknowledged."""
    primary, replica = replicated

    async def scenario() -> None:
        async with redis_node(f"redis://127.0.0.1:{primary.port}") as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(20)
            before = ledger.last
            # the replica misses the end, is promoted, and becomes the source of the former primary, which comes back
            ask(replica.port, "REPLICAOF", "NO", "ONE")
            await ledger.publish(5)
            ask(primary.port, "REPLICAOF", "127.0.0.1", str(replica.port))
            await ledger.fails()
            await wait_until(lambda: is_linked(primary))
            ask(primary.port, "REPLICAOF", "NO", "ONE")
            await ledger.succeeds(20)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch

    run(scenario(), 30)


def _knows_all(sentinel: Daemon) -> bool:
    known = ask(sentinel.port, "SENTINEL", "MASTER", "main")
    return b"num-slaves\r\n$1\r\n1\r\n" in known and b"num-other-sentinels\r\n$1\r\n2\r\n" in known


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_sentinels_replace_a_killed_primary(replicated: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    primary, replica = replicated
    rules = (
        f"sentinel monitor main 127.0.0.1 {primary.port} 2",
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 3000",
    )

    async def scenario(ports: list[int]) -> None:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with (
            redis_node(f"redis+sentinel://{hosts}/main") as node,
            redis_node(f"redis+sentinel://{hosts}/main") as other,
        ):
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            async with ledger.publishing(tasks=2, pause=0.01):
                await wait_until(lambda: len(ledger.kept) > 50)
                primary.kill()
                await ledger.fails()
                await ledger.succeeds(50, within=40)
            assert ask(replica.port, "ROLE").startswith(b"*3\r\n$6\r\nmaster")
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger, told=True)
            await wait_until(lambda: not node.tasks.degraded, 10)

    with ExitStack() as stack:
        sentinels = [
            stack.enter_context(start_redis(tmp_path / f"sentinel{n}", *rules, is_sentinel=True)) for n in range(3)
        ]
        for sentinel in sentinels:
            until(functools.partial(_knows_all, sentinel), 30, what="the Sentinels know each other and the replica")
        run(scenario([sentinel.port for sentinel in sentinels]), 70)


# A cluster.


class Cluster:
    """Three servers that share the slots, and a replica of the first."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.servers: list[Daemon] = []
        for number in range(4):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(free_port()))
            more = ("--repl-diskless-sync-delay", "0", "--cluster-require-full-coverage", "no")
            self.servers.append(stack.enter_context(start_redis(folder / str(number), *options, *more)))
        first = self.servers[0]
        bounds = ((0, 5460), (5461, 10922), (10923, 16383))
        for server, (low, high) in zip(self.servers, bounds, strict=False):
            assert ask(server.port, "CLUSTER", "ADDSLOTSRANGE", str(low), str(high)) == b"+OK\r\n"
        for server in self.servers[1:]:
            bus = _bus_port(server)
            assert ask(first.port, "CLUSTER", "MEET", "127.0.0.1", str(server.port), bus) == b"+OK\r\n"
        until(lambda: all(b"cluster_known_nodes:4" in self._info(server) for server in self.servers), 20, what="meet")
        id = ask(first.port, "CLUSTER", "MYID").split(b"\r\n")[1].decode()
        until(lambda: ask(self.servers[3].port, "CLUSTER", "REPLICATE", id) == b"+OK\r\n", 20, what="replicate")
        until(lambda: is_linked(self.servers[3]), 20, what="the replica is linked")
        until(lambda: all(b"cluster_state:ok" in self._info(server) for server in self.servers), 20, what="cluster ok")
        self.url = f"redis+cluster://127.0.0.1:{first.port},127.0.0.1:{self.servers[1].port}"

    @staticmethod
    def _info(server: Daemon) -> bytes:
        return ask(server.port, "CLUSTER", "INFO")


def _bus_port(server: Daemon) -> str:
    reply = ask(server.port, "CONFIG", "GET", "cluster-port")
    return reply.split(b"\r\n")[-2].decode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreUnderTest]:
    with ExitStack() as stack:
        address = parse_address(Cluster(tmp_path, stack).url)
        yield StoreUnderTest(
            broker=lambda: RedisBroker(address, Limits()),
            presence=lambda: RedisPresence(address, lease=1.0),
            shared=True,
            lasting=True,
        )


@pytest.mark.slow
class TestClusterBroker(BrokerContract):
    pass


@pytest.mark.slow
class TestClusterPresence(PresenceContract):
    pass


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_cluster_goes_on_when_a_server_dies_and_its_replica_takes_its_slots(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with redis_node(cluster.url) as node, redis_node(cluster.url) as other:
            channels = [f"room:{n}" for n in range(12)]
            ledgers = [Ledger(node, channel) for channel in channels]
            clients = [await connect(one, channel=channel) for one in (node, other) for channel in channels]
            for ledger in ledgers:
                await ledger.publish(10)
            owned = [channel for channel in channels if node.broker._keys.slot(channel) <= 5460]  # type: ignore[attr-defined]
            assert 0 < len(owned) < len(channels)
            cluster.servers[0].kill()
            rest = [ledger for ledger, channel in zip(ledgers, channels, strict=True) if channel not in owned]
            for ledger in rest:  # who is not concerned notices nothing
                await ledger.publish(10)
                assert not ledger.failures
            for ledger in ledgers:
                await ledger.succeeds(10, within=30)
            for client, ledger, channel in zip(clients, ledgers * 2, channels * 2, strict=True):
                await received(client, ledger, channel)
                check(client, ledger, channel=channel, told=f"i {channel}" in client.shown)
            for ledger, channel in zip(ledgers, channels, strict=True):
                assert (len({epoch for epoch, _ in ledger.kept}) == 2) == (channel in owned)
            assert (await node.presence.join("room:0", Member("1", "ann"))).first

    with ExitStack() as stack:
        run(scenario(Cluster(tmp_path, stack)), 70)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_cluster_is_found_again_when_the_server_of_the_url_is_gone_or_no_longer_of_it(tmp_path: Path) -> None:
    async def goes_on(cluster: Cluster, nodes: list[Node]) -> None:
        """Publications arrive and members are known, though every connection for delivery was cut."""
        for server in cluster.servers:
            if server.process is not None:
                ask(server.port, "CLIENT", "KILL", "TYPE", "pubsub")
        for node in nodes:
            for channel in (f"room:{n}" for n in range(6)):
                client, ledger = await connect_again(node, channel), Ledger(nodes[0], channel)
                await ledger.succeeds(3)
                await received(client, ledger, channel)
                check(client, ledger, channel=channel, told=f"i {channel}" in client.shown)
            assert (await node.presence.join("room:0", Member(secrets.token_hex(4), "ann"))).connections

    async def connect_again(node: Node, channel: str) -> Client:
        async with asyncio.timeout(20):
            while True:
                try:
                    return await connect(node, channel=channel)
                except StoreUnavailable:
                    await asyncio.sleep(0.05)

    async def scenario(cluster: Cluster) -> None:
        first = cluster.servers[0]
        url = f"redis+cluster://127.0.0.1:{first.port}"
        async with redis_node(url) as node, redis_node(url) as other:
            first.kill()
            replica = cluster.servers[3]
            await wait_until(lambda: ask(replica.port, "ROLE").startswith(b"*3\r\n$6\r\nmaster"), 20)
            await wait_until(lambda: node.broker._shards.are_open and other.broker._shards.are_open, 20)  # type: ignore[attr-defined]
            await goes_on(cluster, [node, other])
            (first.folder / "nodes.conf").unlink()  # it begins anew, and knows no other server
            await asyncio.to_thread(first.start)
            await goes_on(cluster, [node, other])

    with ExitStack() as stack:
        run(scenario(Cluster(tmp_path, stack)), 70)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_slot_that_moves_to_another_server_takes_its_channel_with_it(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        source, target = cluster.servers[1], cluster.servers[2]
        async with redis_node(cluster.url) as node, redis_node(cluster.url) as other:
            keys = node.broker._keys  # type: ignore[attr-defined]
            moving, staying = [f"room:{n}" for n in range(99) if 5461 <= keys.slot(f"room:{n}") <= 10922][:2]
            slot = str(keys.slot(moving))
            clients = {channel: await connect(other, channel=channel) for channel in (moving, staying)}
            ledgers = {channel: Ledger(node, channel) for channel in clients}
            async with ledgers[moving].publishing(1), ledgers[staying].publishing(1):
                await asyncio.sleep(0.1)
                await asyncio.to_thread(_move, slot, source, target)
                await ledgers[moving].succeeds(20)
            assert not ledgers[staying].failures
            assert ledgers[moving].were_sure
            for channel, client in clients.items():
                await received(client, ledgers[channel], channel)
                check(client, ledgers[channel], channel=channel, told=f"i {channel}" in client.shown)

    with ExitStack() as stack:
        run(scenario(Cluster(tmp_path, stack)), 70)


def _move(slot: str, source: Daemon, target: Daemon) -> None:
    source_id, target_id = (
        ask(server.port, "CLUSTER", "MYID").split(b"\r\n")[1].decode() for server in (source, target)
    )
    assert ask(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id) == b"+OK\r\n"
    assert ask(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id) == b"+OK\r\n"
    while keys := ask(source.port, "CLUSTER", "GETKEYSINSLOT", slot, "100").decode().split("\r\n")[2::2]:
        for key in keys:
            ask(source.port, "MIGRATE", "127.0.0.1", str(target.port), key, "0", "5000")
    for server in (target, source):
        assert ask(server.port, "CLUSTER", "SETSLOT", slot, "NODE", target_id) == b"+OK\r\n"
