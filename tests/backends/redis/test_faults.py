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
from tidewire.engine.node import Node
from tidewire.errors import NotPublished, StoreUnavailable
from tidewire.messages import Format, Position

from .helpers import Ledger, ask, check, connect, received, redis_node, wait_until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def url(server: Daemon) -> str:
    return f"redis://127.0.0.1:{server.port}"


def test_killed_and_restarted_with_its_data_nothing_is_lost_and_nobody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server), publish_seconds=5.0) as node, redis_node(url(server)) as other:
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
            assert all(seconds < 4 for _, seconds in ledger.failures)  # none waited for `publish_seconds`

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


def test_a_tail_that_was_lost_while_delivery_was_cut_is_read_at_once(tmp_path: Path) -> None:
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


#: What another program, or an operator, makes of a channel: told, and mended, by the next publish or by the next look.
DAMAGES = (
    "SET {meta} x",
    "SET {stream} x",
    "HSET {meta} top 5",
    "HSET {meta} top 500",
    "HSET {meta} top abc",
    "HSET {meta} top 5.5",
    "HSET {meta} top nan",
    "HSET {meta} epoch another",
    "XADD {stream} * x y",
    "XADD {stream} 11-0 x y",
    "XSETID {stream} 999-0",
    "XSETID {stream} 18446744073709551615-18446744073709551615",
)
#: What changes nothing that a subscriber could miss.
TRIFLES = ("HSET {meta} lowest abc", "HSET {meta} age abc", "HSET {meta} prolonged abc", "XADD {stream} 10-5 x y")


@pytest.mark.parametrize("looks", [False, True])
def test_what_another_program_changes_of_a_channel_is_mended(tmp_path: Path, looks: bool) -> None:
    async def damaged(server: Daemon, node: Node, channel: str, command: str) -> None:
        client, ledger = await connect(node, channel=channel), Ledger(node, channel)
        await ledger.publish(10)
        await received(client, ledger, channel)
        before = ledger.last
        keys = {"meta": f"tidewire:{{{channel}}}:meta", "stream": f"tidewire:{{{channel}}}:stream"}
        assert not ask(server.port, *command.format(**keys).split()).startswith(b"-")
        if looks and command not in TRIFLES:
            page = await node.broker.history(channel, since=Position(before.offset - 5, before.epoch))
            assert not page.complete or "XSETID" in command
        await ledger.publish(10)
        assert not ledger.failures
        await received(client, ledger, channel)
        is_told = f"i {channel}" in client.shown
        check(client, ledger, channel=channel, told=is_told)
        assert is_told == (command not in TRIFLES) or looks
        page = await node.broker.history(channel, since=ledger.last)
        assert page.complete

    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            for number, command in enumerate((*DAMAGES, *TRIFLES)):
                await damaged(server, node, f"c{number}", command)
            # the generation is every channel's
            client, ledger = await connect(node, channel="a"), Ledger(node)
            await ledger.publish(3)
            ask(server.port, "SET", "tidewire:generation", "x")
            await ledger.succeeds(3)
            await received(client, ledger)
            check(client, ledger, told=True)

    with start_redis(tmp_path) as server:
        run(scenario(server), 30)


def test_a_tail_that_an_operator_removes_is_missing_from_a_recovery(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            ledger = Ledger(node)
            await ledger.publish(10)
            ask(server.port, "XDEL", "tidewire:{a}:stream", "10-0")
            for offset in (5, 9):
                page = await node.broker.history("a", since=Position(offset, ledger.last.epoch))
                assert not page.complete
            page = await node.broker.history("a", since=Position(5, ledger.last.epoch), limit=3)
            assert (page.complete, len(page.publications)) == (True, 3)

    with start_redis(tmp_path) as server:
        run(scenario(server))


def test_a_key_that_was_replaced_or_is_of_an_older_epoch_does_not_hide_a_publish(tmp_path: Path) -> None:
    async def scenario(server: Daemon) -> None:
        async with redis_node(url(server)) as node:
            for _ in range(3):
                await node.publish("a", b"1", Format.TEXT, key="k")
                await node.publish("a", b"1", Format.TEXT)
            await node.publish("a", b"1", Format.TEXT, key="late")
            ask(server.port, "DEL", "tidewire:{a}:meta")
            assert (await node.publish("a", b"1", Format.TEXT, key="late")).offset == 1
            ask(server.port, "DEL", "tidewire:{a}:key:late")
            ask(server.port, "RPUSH", "tidewire:{a}:key:late", "x")
            assert (await node.publish("a", b"1", Format.TEXT, key="late")).offset == 2
            assert (await node.publish("a", b"1", Format.TEXT, key="late")).offset == 2

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
            await wait_until(lambda: node.broker._delivery.connection.is_open)  # type: ignore[attr-defined]
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

            async def has_all() -> bool:
                return client.offsets()[-1] == (await node.broker.history("a", limit=0)).top.offset

            await wait_until(has_all, 30)
            assert client.offsets() == list(range(1, client.offsets()[-1] + 1))
            assert "i a" not in client.shown

    with start_redis(tmp_path) as server:
        run(scenario(server.port), 60)
