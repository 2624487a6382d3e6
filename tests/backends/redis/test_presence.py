"""Leases on Redis: outages kill nobody, and a node that was given up comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.support import run
from helpers.stores import start_redis
from tidewire.backends.base import JoinResult
from tidewire.backends.redis import RedisPresence
from tidewire.backends.redis.address import parse_address
from tidewire.errors import StoreUnavailable
from tidewire.messages import Announcement, Departure, Format, Member

from .helpers import ask, wait_until

ANN, BOB = Member("1", "ann"), Member("2", "bob")


def open_presence(port: int, lease: float = 1.0) -> RedisPresence:
    return RedisPresence(parse_address(f"redis://127.0.0.1:{port}"), 0.5, lease=lease)


def test_nobody_is_taken_for_dead_for_a_lease_after_an_outage(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, other = open_presence(server.port), open_presence(server.port)
        for name, presence in (("one", one), ("other", other)):
            await presence.start(name)
        await one.join("a", ANN)
        server.freeze()
        await asyncio.sleep(1.5)
        with pytest.raises(StoreUnavailable):
            await other.members("a")
        server.thaw()

        async def answers() -> bool:
            try:
                return not await other.claim()
            except StoreUnavailable:
                return False

        await wait_until(answers)

        # a lease was over, and yet the node that touches now is still there
        async def touches() -> bool:
            try:
                return await one.touch()
            except StoreUnavailable:
                return False

        await wait_until(touches)
        assert await other.claim() == []
        assert await other.members("a") == [ANN]
        for presence in (one, other):
            await presence.aclose()

    with start_redis(tmp_path) as server:
        try:
            run(scenario())
        finally:
            server.thaw()


def test_a_node_that_was_given_up_is_told_and_joins_under_a_new_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        silent, other = open_presence(server.port, 0.4), open_presence(server.port, 0.4)
        await silent.start("silent")
        await other.start("other")
        await silent.join("a", ANN, Announcement(b"bye", Format.TEXT))
        await silent.join("b", BOB)
        found: list[Departure] = []

        async def is_claimed() -> bool:
            await other.touch()
            found.extend(await other.claim())
            return len(found) == 2

        await wait_until(is_claimed)
        assert not await silent.touch()
        assert await silent.touch()
        assert await silent.join("a", ANN) == JoinResult(first=True, connections=1)
        await other.forget(found)
        await other.touch()
        assert await other.claim() == []
        assert await other.members("a") == [ANN]
        for presence in (silent, other):
            await presence.aclose()

    with start_redis(tmp_path) as server:
        run(scenario())


def test_a_store_that_was_emptied_has_the_members_join_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        presence = open_presence(server.port)
        await presence.start("one")
        await presence.join("a", ANN)
        ask(server.port, "FLUSHALL")
        assert await presence.join("a", BOB) == JoinResult(first=True, connections=1)
        assert not await presence.touch(), "ANN must join again"
        assert await presence.touch()
        await presence.aclose()

    with start_redis(tmp_path) as server:
        run(scenario())


#: Keys that the server evicts for want of memory, or that another program replaces.
DAMAGES = [
    *(f"DEL {key}" for key in ("members:a", "order:a", "user:1:a:ann", "leases")),
    *(f"SET {key} x" for key in ("members:a", "leases", "closed", "beat", "nodes", "joins")),
]


def test_members_join_again_whatever_is_removed_or_replaced(tmp_path: Path) -> None:
    async def damaged(damage: str) -> None:
        presence = open_presence(server.port)
        await presence.start("one")
        await presence.join("a", ANN)
        command, key, *value = damage.split()
        ask(server.port, "DEL", f"tidewire:{{presence}}:{key}")
        if value:
            ask(server.port, command, f"tidewire:{{presence}}:{key}", *value)
        for _ in range(2):  # as the node does every two seconds
            await presence.members("a")
            await presence.join("a", BOB)
            if not await presence.touch():
                await presence.join("a", ANN)
                await presence.join("a", BOB)
        assert sorted(member.user for member in await presence.members("a")) == ["ann", "bob"], damage
        assert (await presence.count("a"), await presence.count("a", "ann")) == (2, 1), damage
        fresh = open_presence(server.port)
        await fresh.start("two")
        await fresh.aclose()
        await presence.aclose()
        ask(server.port, "FLUSHALL")

    async def scenario() -> None:
        for damage in DAMAGES:
            await damaged(damage)

    with start_redis(tmp_path) as server:
        run(scenario())


def test_nothing_is_left_of_members_that_have_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        presence, dead = open_presence(server.port, 0.4), open_presence(server.port, 0.4)
        await presence.start("one")
        await dead.start("dead")
        for n in range(50):
            await presence.join(f"room {n % 5}", Member(f"m{n}", f"user {n}"))
            await dead.join(f"room {n % 5}", Member(f"d{n}", f"user {n}"))
        for n in range(50):
            await presence.leave(f"room {n % 5}", f"m{n}")
        await dead.aclose()
        gone = 0
        while gone < 50:
            await presence.touch()
            found = await presence.claim(7)
            await presence.forget(found)
            gone += len(found)
            await asyncio.sleep(0.01)
        await presence.claim()
        keys = ask(server.port, "KEYS", "*").split(b"\r\n")[2::2]
        left = {key.rpartition(b":")[2] for key in keys}
        assert left == {b"leases", b"nodes", b"joins", b"beat", b"departures"}
        await presence.aclose()

    with start_redis(tmp_path) as server:
        run(scenario())
