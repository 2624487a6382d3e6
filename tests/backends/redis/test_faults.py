"""Redis killed, frozen, emptied, full, and cutting us off: nothing is lost in silence, and nothing needs a restart."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from engine.support import run
from helpers.frozen import check_frozen_then_thawed
from helpers.ledger import check_outage_told
from helpers.processes import worker
from helpers.stores import Daemon, start_redis
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.messages import Position

from .helpers import Ledger, ask, check, connect, received, redis_node, wait_until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def url(server: Daemon) -> str:
    return f"redis://127.0.0.1:{server.port}"


def test_killed_and_restarted_with_its_data_nothing_is_lost_and_nobody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node, redis_node(url(server)) as other:
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            async with ledger.publishing():
                await wait_until(lambda: len(ledger.kept) > 100)
                server.kill()
                await ledger.fails()
                assert not near.link.is_closed
                server.start()
                await ledger.succeeds(50)
            assert len({epoch for epoch, _ in ledger.kept}) == 1
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger)
            assert all(seconds < 0.2 for _, seconds in ledger.failures)

    caplog.set_level(logging.WARNING, "tidewire")
    with start_redis(tmp_path, *DURABLE) as server:
        run(scenario(server), 30)
    check_outage_told(caplog.records, f"Redis at 127.0.0.1:{server.port}", 2)


def test_restarted_without_its_data_subscribers_are_told(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(20)
            before = ledger.last
            server.kill()
            await ledger.fails()
            server.start()
            await ledger.succeeds(20)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch
            back = await connect(node)
            assert (await back.subscribe("a", since=before)).recovered is False
            recent = Position(ledger.last.offset - 5, ledger.last.epoch)
            again = await connect(node)
            answer = await again.subscribe("a", since=recent)
            assert (answer.recovered, len(answer.publications)) == (True, 5)

    with start_redis(tmp_path) as server:
        run(scenario(server), 30)


def test_an_older_dump_begins_a_new_epoch_and_gives_no_offset_twice(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node, redis_node(url(server)) as other:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            assert ask(server.port, "SAVE") == b"+OK\r\n"
            await ledger.publish(5)
            await received(client, ledger)
            before = ledger.last
            server.kill()
            await ledger.fails()
            server.start()
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger, told=True)
            assert ledger.last.epoch != before.epoch
            # all nodes agree, however many came back at once
            await wait_until(lambda: other.broker._shards.shard("a").reading.is_open)  # type: ignore[attr-defined]
            tops = [await one.broker.positions(["a", "b"]) for one in (node, other)]
            assert tops[0] == tops[1]
            assert tops[0]["a"] == ledger.last

    with start_redis(tmp_path) as server:
        run(scenario(server), 30)


@pytest.mark.parametrize("seconds", [1.5, pytest.param(30.0, marks=pytest.mark.slow)])
def test_frozen_then_thawed(tmp_path: Path, seconds: float) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server), publish_seconds=0.5) as node:
            await check_frozen_then_thawed(server, node, seconds)

    with start_redis(tmp_path) as server:
        try:
            run(scenario(server), 60)
        finally:
            server.thaw()


def test_cut_off_as_a_slow_subscriber_reads_what_it_missed(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node, redis_node(url(server)) as other:
            client = await connect(node, channel="a")
            ledger = Ledger(other)
            async with ledger.publishing():
                for _ in range(5):
                    await ledger.succeeds(20)
                    assert ask(server.port, "CLIENT", "KILL", "TYPE", "pubsub").startswith(b":")
            assert not ledger.failures
            await received(client, ledger)
            check(client, ledger)

    with start_redis(tmp_path) as server:
        run(scenario(server), 30)


def test_a_tail_that_was_lost_while_carriage_was_cut_is_read_at_once(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node, redis_node(url(server)) as other:
            client = await connect(node, channel="a")
            ledger = Ledger(other)
            for _ in range(10):
                assert ask(server.port, "CLIENT", "KILL", "TYPE", "pubsub").startswith(b":")
                await ledger.publish()
                await received(client, ledger, within=4)  # positions are compared by themselves every 10 s only
            assert node.statistics().gaps > 0
            check(client, ledger)

    with start_redis(tmp_path) as server:
        run(scenario(server), 60)


def test_a_full_memory_refuses_publishing_and_reading_goes_on(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            ask(server.port, "CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(NotPublished, match="maxmemory"):
                await node.publish("a", b"x" * 1000)
            assert len((await node.broker.history("a")).publications) == 10
            ask(server.port, "CONFIG", "SET", "maxmemory", "0")
            await ledger.succeeds(5)
            await received(client, ledger)
            check(client, ledger)

    with start_redis(tmp_path) as server:
        run(scenario(server))


@pytest.mark.parametrize("command", ["FLUSHALL", "SCRIPT FLUSH"])
def test_what_an_operator_empties_is_noticed(tmp_path: Path, command: str) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            client = await connect(node, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            assert ask(server.port, *command.split()) == b"+OK\r\n"
            await ledger.succeeds(10)
            assert ledger.were_sure
            assert ledger.failures
            assert all("was emptied, or has lost its scripts" in str(error) for error, _ in ledger.failures)
            await received(client, ledger)
            check(client, ledger, told=command == "FLUSHALL")

    with start_redis(tmp_path) as server:
        run(scenario(server))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("DEL {meta}", True),
        ("HDEL {meta} top", True),
        ("HDEL {meta} epoch", True),
        ("HDEL {meta} generation", True),
        ("HDEL {meta} lowest size age prolonged", False),
        ("DEL {stream}", False),  # who is there has it all, and who comes back is told
        ("XTRIM {stream} MAXLEN 2", False),
    ],
)
def test_what_an_operator_removes_of_a_channel_is_mended(tmp_path: Path, command: str, told: bool) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node, redis_node(url(server)) as other:
            near, far = await connect(node, channel="a"), await connect(other, channel="a")
            ledger = Ledger(node)
            await ledger.publish(10)
            before = ledger.last
            for client in (near, far):
                await received(client, ledger)
            keys = {"meta": "tidewire:{a}:meta", "stream": "tidewire:{a}:stream"}
            assert ask(server.port, *command.format(**keys).split()).startswith(b":")
            await ledger.succeeds(10)
            for client in (near, far):
                await received(client, ledger)
                check(client, ledger, told=told)
            page = await node.broker.history("a", since=Position(before.offset - 5, before.epoch))
            assert not page.complete or command.startswith("HDEL {meta} lowest")

    with start_redis(tmp_path) as server:
        run(scenario(server))


def test_what_was_begun_while_it_is_away_works_when_it_is_back(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            ledger = Ledger(node)
            server.kill()
            await ledger.fails()
            with pytest.raises(StoreUnavailable):
                await connect(node, channel="a")
            with pytest.raises(StoreUnavailable):
                await node.presence.members("a")
            server.start()
            await ledger.succeeds()
            await wait_until(lambda: node.broker._shards.are_open)  # type: ignore[attr-defined]
            await wait_until(lambda: node.broker._carriage.connection.is_open)  # type: ignore[attr-defined]
            client = await connect(node, channel="a")
            await ledger.publish(10)
            await received(client, ledger)
            await wait_until(lambda: not node.tasks.degraded, 10)

    with start_redis(tmp_path, *DURABLE) as server:
        run(scenario(server), 30)


def test_a_start_without_a_server_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(dead: str) -> None:
        with pytest.raises(StoreUnavailable, match=r"cannot be reached .*; see that it runs there"):
            async with redis_node(dead):
                pass

    with start_redis(tmp_path) as server:
        dead = url(server)
    run(scenario(dead))


@pytest.mark.slow
def test_a_node_that_redis_cuts_off_as_slow_reads_what_it_missed(tmp_path: Path) -> None:
    """The event loop stands still while more is published than Redis holds for a subscriber."""

    async def scenario(port: int) -> None:
        url = f"redis://127.0.0.1:{port}"
        ask(port, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0")
        # a gap of some 100 MB takes its time to be read
        limits = {"gap_messages": 1_000_000, "gap_bytes": 10**9, "outbox_bytes": 10**9, "publish_seconds": 10.0}
        async with redis_node(url, **limits) as node:
            client = await connect(node, channel="a")
            with worker(url, "flood", tasks=10, size=20_000, pause=0.001):
                await wait_until(lambda: len(client.offsets()) > 10)
                time.sleep(3)  # the loop is what stands still  # noqa: ASYNC251
                await wait_until(lambda: node.statistics().gaps > 0, 10)
            top = (await node.broker.history("a", limit=0)).top
            await wait_until(lambda: client.offsets()[-1] == top.offset, 15)
            assert client.offsets() == list(range(1, top.offset + 1))
            assert "i a" not in client.shown

    with start_redis(tmp_path) as server:
        run(scenario(server.port), 60)
