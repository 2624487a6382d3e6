"""Tokens that an application ends: on all nodes, for those that start later, and for nobody else's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from engine.support import connect, run
from helpers.stores import Daemon, start_redis
from tidewire.channels import REVOKED as CHANNEL
from tidewire.errors import ConfigurationError, PublishError, StoreUnavailable
from tidewire.hub import Hub
from tidewire.limits import Limits
from tidewire.messages import IssuedToken, Position
from tidewire.protocols.close_codes import REVOKED
from tidewire.sessions.revocations import Revocation
from tidewire.testing import wait_until

NOW = time.time()


def test_a_revocation_ends_connections_on_all_nodes_and_is_known_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def main() -> None:
        async with Hub(url) as one, Hub(url) as two:
            before, after, other = [await connect(two.node, user=user) for user in ("ann", "ann", "bob")]
            before.connection.opened_with(IssuedToken("t1", NOW - 10))
            after.connection.opened_with(IssuedToken("t2", NOW + 10))
            other.connection.opened_with(IssuedToken("t3", NOW - 10))
            await one.revoke(user="ann", issued_before=NOW)
            await wait_until(lambda: before.connection.is_closed)
            assert before.connection.ending == REVOKED
            assert not after.connection.is_closed
            await one.revoke(jti="t3")
            await wait_until(lambda: other.connection.is_closed)
            assert not after.connection.is_closed
        async with Hub(url) as later:
            is_revoked = later.node.is_revoked
            assert is_revoked("ann", IssuedToken("", NOW - 10))
            assert not is_revoked("ann", IssuedToken("", NOW + 10))
            assert is_revoked("bob", IssuedToken("t3", NOW + 10))
            assert not is_revoked("bob", IssuedToken("t4", NOW - 10))
            assert not is_revoked("ann", None)

    run(main())


def test_a_node_that_missed_a_revocation_reads_it_later(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def main() -> None:
        async with Hub(url) as one, Hub(url) as two:
            await one.revoke(jti="t1")
            await two.revocations.load()
            assert two.node.is_revoked("", IssuedToken("t1"))

    run(main())


@asynccontextmanager
async def on_redis(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Callable[[], Hub], Hub, Hub]]:
    """Yield a server that keeps nothing on disk, what makes a hub on it, and two such hubs."""
    with start_redis(tmp_path) as redis:
        make = partial(Hub, f"redis://127.0.0.1:{redis.port}")
        async with make() as one, make() as two:
            yield redis, make, one, two


def test_a_store_that_was_emptied_gets_the_revocations_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with on_redis(tmp_path) as (redis, make, one, two):
            await one.revoke(user="ann", issued_before=NOW)
            await one.revoke(jti="t1")
            await wait_until(lambda: two.node.is_revoked("", IssuedToken("t1")))
            redis.kill()
            redis.start()

            async def is_known_to_newcomers() -> bool:
                async with make() as later:
                    revoked = [later.node.is_revoked("ann", IssuedToken("", NOW - 10))]
                    return all([*revoked, later.node.is_revoked("bob", IssuedToken("t1"))])

            await wait_until(is_known_to_newcomers, 60)

    run(main())


def test_a_revocation_while_the_store_is_away_holds_everywhere_when_it_is_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with on_redis(tmp_path) as (redis, _, one, two):
            there = await connect(two.node, user="ann")
            there.connection.opened_with(IssuedToken("t1", NOW - 10))
            redis.kill()
            with pytest.raises((PublishError, StoreUnavailable)):
                await one.revoke(user="ann", issued_before=NOW)
            assert one.node.is_revoked("ann", IssuedToken("", NOW - 10))
            redis.start()
            await wait_until(lambda: there.connection.is_closed, 30)
            assert there.connection.ending == REVOKED

    run(main())


def test_an_old_revocation_that_comes_again_ends_only_what_is_older() -> None:
    async def main() -> None:
        async with Hub() as hub:
            own, timeless, old, first = [await connect(hub.node, user="ann") for _ in range(4)]
            first.connection.opened_at -= NOW  # long before
            timeless.connection.opened_with(IssuedToken("t9", None))
            old.connection.opened_with(IssuedToken("t1", NOW - 200))
            hub.revocations._take(Revocation("ann", "", NOW - 100, again=True))
            assert old.connection.ending == first.connection.ending == REVOKED
            assert own.connection.ending is None
            assert timeless.connection.ending is None

    run(main())


def test_a_new_epoch_is_given_those_alone_that_the_store_has_lost() -> None:
    async def main() -> None:
        async with Hub() as hub:
            for number in range(250):
                await hub.revoke(jti=f"t{number}")
            revocations = hub.revocations
            await revocations.load()
            for epoch in ("one", "another"):
                revocations._read = Position(1, epoch)
                await revocations.load()
            kept = await hub.node.broker.history(CHANNEL)
            assert (kept.top.offset, len(kept.publications)) == (250, 250)
            await hub.node.broker.remove_history(CHANNEL)
            revocations._read = Position(1, "a third")
            await revocations.load()
            assert len((await hub.node.broker.history(CHANNEL)).publications) == 250

    run(main())


def test_the_oldest_revocations_are_dropped_and_counted() -> None:
    async def main() -> None:
        async with Hub(limits=Limits(revocations=2)) as hub:
            for number in range(3):
                await hub.revoke(jti=f"t{number}")
            assert hub.statistics().limits_reached["revocations"] >= 1
            assert not hub.node.is_revoked("", IssuedToken("t0"))
            assert hub.node.is_revoked("", IssuedToken("t2"))
            hub.revocations.end(Revocation("ann", "", NOW))  # nobody is there: nothing happens

    run(main())


def test_what_is_to_be_revoked_is_named() -> None:
    async def main() -> None:
        async with Hub() as hub:
            with pytest.raises(ConfigurationError, match=r"user=… or jti=…"):
                await hub.revoke()

    asyncio.run(main())
