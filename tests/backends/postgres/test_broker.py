"""What only this store does: names, late readers, trimming, wake-ups, cancelled calls, its schema and its advice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.support import run
from helpers.stores import postgres_database
from tidewire.backends.postgres import PostgresBroker, PostgresPresence, wakeups
from tidewire.backends.postgres.housekeeping import Housekeeping
from tidewire.backends.postgres.schema import SQL
from tidewire.errors import ConfigurationError, PublishUnconfirmed, StoreUnavailable
from tidewire.limits import Limits
from tidewire.messages import Format, Member, Position, PublishRequest
from tidewire.retention import Retention
from tidewire.testing.contract_store import Node, wait_until

from .helpers import client_of

ALL = Retention(1_000_000, 1e9)


class _Opened:
    """An open broker for a block."""

    def __init__(self, url: str, **limits: float) -> None:
        self.node = Node(PostgresBroker(url, Limits(**limits)))  # type: ignore[arg-type]

    async def __aenter__(self) -> Node:
        await self.node.broker.start(self.node.delivered.extend)
        return self.node

    async def __aexit__(self, *_: object) -> None:
        await self.node.broker.aclose()


def test_names_and_payloads_of_every_kind() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as node:
            name = "ü" * 255
            await node.broker.subscribe(name)
            data = bytes(range(256)) * 1_000
            await node.publish(name, data, format=Format.BINARY, key="k" * 5_000)
            assert await node.publish(name, data, format=Format.BINARY, key="k" * 5_000) == 1
            await wait_until(lambda: [p.data for p in node.delivered] == [data])
            assert await node.publish("a", retention=Retention(10**30, float("inf"))) == 1

    run(scenario(postgres_database()))


def test_many_channels_at_once_from_two_nodes_without_a_deadlock() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as one, _Opened(url) as other:
            names = [f"channel {n}" for n in range(60)]
            await asyncio.gather(*(one.broker.subscribe(name) for name in names))
            for _ in range(10):  # each in its own order, and both at once
                forth = (one.publish(name) for name in names)
                back = (other.publish(name) for name in reversed(names))
                await asyncio.gather(*forth, *back)
            await wait_until(lambda: len(one.delivered) >= 1_200, 10)
            assert all(one.offsets(name) == list(range(1, 21)) for name in names)

    run(scenario(postgres_database()), 30)


def test_a_commit_that_waits_for_a_counter_holds_none_that_comes_later() -> None:
    """Whatever the order in which channels are named: so two commits never wait for each other."""

    def keep(connection: Any, *names: str) -> asyncio.Task[Any]:
        nothing: list[None] = [None] * len(names)
        places, formats = list(range(1, len(names) + 1)), [2] * len(names)
        values = (list(names), nothing, nothing, places, [], [], formats, [b"{}"] * len(names), [])
        return asyncio.create_task(connection.fetchrow(SQL["keep"], *values))

    async def scenario(url: str) -> None:
        async with _Opened(url) as node, client_of(url) as first, client_of(url) as second, client_of(url) as third:
            for name in "abc":
                await node.publish(name)
            is_held_up = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"
            for taken, wanted in (("a", "cba"), ("n1", ("n3", "n2", "n1"))):  # counters that are there, and new ones
                transaction = first.transaction()
                await transaction.start()
                await keep(first, taken)
                waiting, pid = keep(second, *wanted), second.get_server_pid()
                await wait_until(lambda pid=pid: third.fetchval(is_held_up, pid))  # type: ignore[misc]
                await asyncio.wait_for(keep(third, *wanted[:-1]), 10)
                await transaction.rollback()
                await waiting

    run(scenario(postgres_database()))


def test_a_missing_wake_up_is_made_up_for_by_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as writer, _Opened(url) as reader:
            await reader.broker.subscribe("a")
            monkeypatch.setattr(wakeups, "encode", lambda tops: [])
            await writer.publish("a")
            await wait_until(lambda: reader.offsets("a") == [1])

    run(scenario(postgres_database()))


def test_more_news_than_one_reading_takes_come_in_order() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as writer, _Opened(url) as reader:
            for name in "ab":
                await reader.broker.subscribe(name)
            await asyncio.gather(*(writer.publish(name, retention=ALL) for _ in range(1_500) for name in "ab"))
            await wait_until(lambda: len(reader.delivered) >= 3_000, 10)
            assert all(reader.offsets(name) == list(range(1, 1_501)) for name in "ab")

    run(scenario(postgres_database()), 30)


def test_wake_ups_fit_and_are_understood() -> None:
    tops = {f"channel {n} ü": n for n in range(1_000)}
    payloads = wakeups.encode(tops)
    assert max(len(payload.encode()) for payload in payloads) < 8_000
    found: dict[str, int] = {}
    for payload in payloads:
        found |= wakeups.decode(payload) or {}
    assert found == tops
    assert wakeups.encode({f"channel {n}": n for n in range(10_000)}) == [wakeups.LOOK]
    assert wakeups.decode(wakeups.LOOK) is None


def test_trimming_keeps_what_is_young_and_what_retention_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as node, client_of(url) as sql:
            for _ in range(500):
                await node.publish("many", retention=Retention(10, 1e9))
            await node.publish("aged", retention=Retention(100, 0.0), key="k", key_age=0.0)
            keeper = Housekeeping(node.broker._pool, lambda tops: None)  # type: ignore[attr-defined]

            async def count() -> int:
                return int(await sql.fetchval("SELECT count(*) FROM tidewire_publications"))

            await keeper.trim_round()
            assert await count() == 501
            monkeypatch.setattr("tidewire.backends.postgres.housekeeping._TRIM_COUNT", 20)
            await keeper.trim_round(seconds=0.0)  # in many steps, and nothing is left for another round
            assert await count() == 10
            assert await sql.fetchval("SELECT count(*) FROM tidewire_keys") == 0
            await node.publish("many")
            await node.broker.remove_history("many")
            async with sql.transaction():
                await sql.execute("SELECT pg_advisory_xact_lock('tidewire_outbox'::regclass::integer, 2)")
                await keeper.trim_round()  # another node is at it
                assert await count() == 11
            await keeper.trim_round()
            assert await count() == 0

    run(scenario(postgres_database()), 30)


def test_what_is_slow_or_much_is_no_outage() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url, publish_seconds=1.0) as node:
            sessions, connection = node.broker._pool, node.broker._connection  # type: ignore[attr-defined]
            with pytest.raises(StoreUnavailable, match="too slow"):
                await sessions.fetch("SELECT pg_sleep(10)")
            waits = [sessions.fetch("SELECT pg_sleep(0.6)") for _ in range(12)]
            answers = await asyncio.gather(*waits, return_exceptions=True)
            assert any("was free" in str(answer) for answer in answers)
            assert not connection.trouble
            assert not connection.losses
            assert await node.publish("a") == 1

    run(scenario(postgres_database()))


def test_a_node_waits_for_another_that_makes_the_schema() -> None:
    async def scenario(url: str) -> None:
        broker = PostgresBroker(url, Limits(publish_seconds=0.2))
        async with client_of(url) as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute(SQL["lock_schema"])
            starting = asyncio.create_task(broker.start(lambda _: None))
            await asyncio.wait([starting], timeout=0.5)
            assert not starting.done()
            await transaction.rollback()
            await starting
        await broker.aclose()

    run(scenario(postgres_database()))


def test_publishes_that_nobody_waits_for_leave_nothing() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as node:
            tasks = [asyncio.create_task(node.broker.history("a")) for _ in range(50)]
            tasks += [asyncio.create_task(node.broker.subscribe(f"b{n}")) for n in range(50)]  # type: ignore[misc]
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not node.broker._connection.trouble  # type: ignore[attr-defined]
            assert await node.publish("a") == 1
            assert not node.broker._publishing._room._waiting  # type: ignore[attr-defined]
            assert (await node.broker.history("a")).top.offset == 1

    run(scenario(postgres_database()))


def test_a_fault_of_the_program_fails_one_commit_and_not_all_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as node:
            with monkeypatch.context() as broken:
                broken.setattr("tidewire.backends.postgres.publishing._append", None)
                with pytest.raises(PublishUnconfirmed, match="internal error"):
                    await node.publish("a")
            assert await node.publish("a") == 1

    run(scenario(postgres_database()))


def test_a_node_that_is_late_keeps_its_members_though_their_users_join_elsewhere() -> None:
    async def scenario(url: str) -> None:
        late, other = PostgresPresence(url, lease=0.2), PostgresPresence(url, lease=0.2)
        await late.start("late")
        await other.start("other")
        await late.join("a", Member("1", "ann"))
        await asyncio.sleep(0.3)  # the lease ends by the server's time
        assert (await other.join("a", Member("2", "ann"))).connections == 1
        assert await late.touch(), "it lost nothing, and need not join its members again"
        assert [member.connection for member in await other.members("a")] == ["1", "2"]
        for presence in (late, other):
            await presence.aclose()

    run(scenario(postgres_database()))


def test_nodes_that_start_at_once_make_one_schema_and_a_newer_one_is_refused() -> None:
    async def scenario(url: str) -> None:
        brokers = [PostgresBroker(url, Limits()) for _ in range(5)]
        await asyncio.gather(*(broker.start(lambda _: None) for broker in brokers))
        tops = [await broker.positions(["a"]) for broker in brokers]
        assert all(top == tops[0] for top in tops)
        await asyncio.gather(*(broker.aclose() for broker in brokers))
        async with client_of(url) as sql:
            await sql.execute("UPDATE tidewire_store SET version = 99")
        with pytest.raises(ConfigurationError, match="version 99"):
            await PostgresBroker(url, Limits()).start(lambda _: None)

    run(scenario(postgres_database()))


def test_a_database_that_was_copied_begins_an_epoch_of_its_own() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as node:
            before = await node.broker.publish(PublishRequest("a", b"1"))
        name = url.rpartition("/")[2]
        async with client_of(url.removesuffix(name) + "postgres") as operator:
            await operator.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
        async with _Opened(f"{url}_copy") as copy:
            top = (await copy.broker.positions(["a"]))["a"]
            assert top.offset == before.offset
            assert top.epoch != before.epoch
            assert not (await copy.broker.history("a", since=Position(0, before.epoch))).complete

    run(scenario(postgres_database()))


def test_a_role_that_may_not_make_tables_needs_them_made_and_granted(tmp_path: Path) -> None:
    url = postgres_database()
    role = "server_" + url.rpartition("/")[2]
    restricted = url.replace("postgres@", f"{role}@")

    async def sql(statement: str) -> None:
        async with client_of(url) as owner:
            await owner.execute(statement)

    async def publish() -> None:
        presence = PostgresPresence(restricted)
        async with _Opened(restricted) as node:
            await presence.start("node")
            await presence.join("a", Member("1", "ann"))
            assert await node.publish("a") == 1
            assert await node.broker.advise() == ()
            await presence.aclose()

    run(sql(f"CREATE ROLE {role} LOGIN"))
    with pytest.raises(ConfigurationError, match="tidewire migrate"):
        run(publish())
    command = [sys.executable, "-m", "tidewire", "migrate", "--broker", url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert "is ready" in done.stdout + done.stderr
    run(sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"))
    run(publish())
    before = run_positions(restricted)
    run(sql("UPDATE tidewire_store SET identity = ''"))  # what the howto says to do after a bare copy
    after = run_positions(restricted)
    assert (before.offset, after.offset) == (1, 1)
    assert before.epoch != after.epoch


def run_positions(url: str) -> Position:
    """Return the position of channel a, as a node sees it that starts."""
    found: list[Position] = []

    async def scenario() -> None:
        async with _Opened(url) as node:
            found.append((await node.broker.positions(["a"]))["a"])

    run(scenario())
    return found[0]


def test_it_says_what_it_is() -> None:
    async def scenario(url: str) -> None:
        async with _Opened(url) as node:
            assert any("PostgreSQL" in text for text in await node.broker.describe())
            assert await node.broker.advise() == ()

    run(scenario(postgres_database()))
