"""The contract of presence as a test suite (base.Presence has it in words)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from tidewire.backends.base import JoinResult, Presence
from tidewire.messages import Announcement, Departure, Format, Member
from tidewire.testing.contract_store import StoreUnderTest, open_presences, wait_until

__all__ = ("PresenceContract",)

ANN, ANN_TOO, BOB = Member("1", "ann", b'{"a":1}'), Member("2", "ann"), Member("3", "bob")
CARL = Member("4", "carl")
ANNOUNCEMENT = Announcement(b"bye", Format.TEXT)


@contextlib.asynccontextmanager
async def _touching(*presences: Presence) -> AsyncIterator[None]:
    """Touch leases as a node does."""

    async def touch() -> None:
        while True:
            for presence in presences:
                await presence.touch()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(touch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _claimed(presence: Presence, store: StoreUnderTest, *, forget: bool = True) -> Sequence[Departure]:
    """Wait for departures, and claim them."""
    found: list[Departure] = []

    async def is_claimed() -> bool:
        found.extend(await presence.claim())
        return bool(found)

    await wait_until(is_claimed, store.departs_within, "departed members can be claimed")
    if forget:
        await presence.forget(found)
        await presence.forget(found)
    return found


class PresenceContract:
    """The duties of every presence; `store` is a fixture of the subclass or its module."""

    def test_the_first_joins_and_the_last_leaves(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_presences(store, 1) as (presence,):
                assert await presence.join("a", ANN) == JoinResult(first=True, connections=1)
                assert await presence.join("a", ANN_TOO) == JoinResult(first=False, connections=2)
                assert await presence.join("a", BOB) == JoinResult(first=True, connections=1)
                assert not await presence.leave("a", "1")
                assert not await presence.leave("a", "1")
                assert not await presence.leave("b", "2")
                assert await presence.leave("a", "2")
                assert await presence.members("a") == [BOB]

        asyncio.run(run())

    def test_members_come_in_the_order_in_which_they_joined(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_presences(store, 1) as (presence,):
                for member in (BOB, ANN, ANN_TOO):
                    await presence.join("a", member)
                await presence.join("b", ANN)
                assert await presence.members("a") == [BOB, ANN, ANN_TOO]
                assert await presence.members("nowhere") == []
                counts = [await presence.count("a"), await presence.count("a", "ann"), await presence.count("b", "bob")]
                assert counts == [3, 2, 0]

        asyncio.run(run())

    def test_joining_again_replaces_the_same_connection(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_presences(store, 1) as (presence,):
                await presence.join("a", ANN)
                await presence.join("a", BOB)
                renewed = Member("1", "ann", b'{"a":2}')
                assert await presence.join("a", renewed, ANNOUNCEMENT) == JoinResult(first=True, connections=1)
                assert await presence.members("a") == [renewed, BOB]

        asyncio.run(run())

    def test_many_join_at_once(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            async with open_presences(store, 1) as (presence,):
                joins = (presence.join("a", Member(str(n), f"user {n % 100}")) for n in range(1_000))
                results = await asyncio.gather(*joins)
                assert sum(result.first for result in results) == 100
                assert await presence.count("a") == 1_000
                assert await presence.touch()
                assert not await presence.claim()

        asyncio.run(run())

    def test_starting_and_closing_twice_is_harmless(self, store: StoreUnderTest) -> None:
        async def run() -> None:
            presence = store.presence()
            await presence.start("one")
            await presence.start("one")
            await presence.join("a", ANN)
            assert await presence.count("a") == 1
            await presence.aclose()
            await presence.aclose()

        asyncio.run(run())

    def test_nodes_see_each_other(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 2) as (one, other):
                await one.join("a", ANN)
                assert await other.join("a", ANN_TOO) == JoinResult(first=False, connections=2)
                assert await other.members("a") == [ANN, ANN_TOO]
                assert not await one.leave("a", "1")
                assert await other.leave("a", "2")

        asyncio.run(run())

    def test_the_members_of_a_dead_node_are_claimed_once(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 3) as (dead, one, other), _touching(one, other):
                await dead.join("a", ANN, ANNOUNCEMENT)
                await dead.join("a", ANN_TOO)
                await dead.join("a", BOB)
                await one.join("a", Member("4", "cid"), ANNOUNCEMENT)
                await dead.aclose()
                found = await _claimed(one, store)
                announcements = {departure.user: departure.announcement for departure in found}
                assert announcements == {"ann": ANNOUNCEMENT, "bob": None}
                assert {departure.channel for departure in found} == {"a"}
                assert len({departure.token for departure in found}) == 2
                assert not await other.claim()
                assert [member.user for member in await other.members("a")] == ["cid"]
                assert await one.join("a", ANN) == JoinResult(first=True, connections=1)

        asyncio.run(run())

    def test_who_returns_in_time_takes_the_place_of_the_dead(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 2) as (dead, one), _touching(one):
                await dead.join("a", ANN, ANNOUNCEMENT)
                await dead.join("a", BOB, ANNOUNCEMENT)
                await dead.aclose()
                back = Member("9", "ann")
                assert not (await one.join("a", back)).first
                found = await _claimed(one, store)
                assert [departure.user for departure in found] == ["bob"]
                assert await one.members("a") == [back]
                assert await one.leave("a", "9")

        asyncio.run(run())

    def test_the_members_of_a_closed_node_are_listed_no_longer(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 2) as (closed, one), _touching(one):
                await one.join("a", BOB)
                await closed.join("a", ANN, ANNOUNCEMENT)
                await closed.join("a", ANN_TOO, ANNOUNCEMENT)
                await closed.join("a", Member("4", "cid"), ANNOUNCEMENT)
                await closed.aclose()
                assert await one.members("a") == [BOB]
                assert [await one.count("a"), await one.count("a", "ann"), await one.count("a", "bob")] == [1, 0, 1]
                back = Member("9", "ann")
                assert await one.join("a", back) == JoinResult(first=False, connections=1)
                assert await one.members("a") == [BOB, back]
                assert [departure.user for departure in await _claimed(one, store)] == ["cid"]
                assert await one.members("a") == [BOB, back]
                assert await one.leave("a", "9")

        asyncio.run(run())

    def test_a_member_that_was_set_aside_is_listed_no_longer(self, store: StoreUnderTest) -> None:
        """It departs with its node, unless its user comes back; its leave is its user's last all the same."""

        async def run() -> None:
            async with open_presences(store, 2 if store.shared else 1) as presences:
                living, ending = presences[0], presences[-1]
                async with _touching(living, ending):
                    await self._set_aside(living, ending)
                if store.shared:
                    async with _touching(living):
                        await ending.aclose()
                        assert [departure.user for departure in await _claimed(living, store)] == ["carl"]
                        assert await living.members("a") == [ANN_TOO]

        asyncio.run(run())

    async def _set_aside(self, living: Presence, ending: Presence) -> None:
        for member in (ANN, BOB, CARL):
            await ending.join("a", member, ANNOUNCEMENT)
        for connection in ("1", "4", "7"):
            await ending.set_aside("a", connection)
        assert await living.members("a") == [BOB]
        counts = [await living.count("a"), await living.count("a", "ann"), await ending.count("a", "bob")]
        assert counts == [1, 0, 1]
        assert await living.join("a", ANN_TOO) == JoinResult(first=False, connections=1)
        await ending.set_aside("a", "3")
        assert await ending.members("a") == [ANN_TOO]
        assert not await living.claim()
        assert await ending.leave("a", "3")

    def test_a_leave_beside_a_closed_node_is_announced_once(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 2) as (closed, one), _touching(one):
                await one.join("a", ANN, ANNOUNCEMENT)
                await closed.join("a", ANN_TOO, ANNOUNCEMENT)
                await closed.aclose()
                was_last = await one.leave("a", "1")
                assert await one.members("a") == []
                departures = [] if was_last else await _claimed(one, store)
                assert was_last or [departure.user for departure in departures] == ["ann"]

        asyncio.run(run())

    def test_who_is_also_on_a_living_node_does_not_depart(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 2) as (dead, one), _touching(one):
                await one.join("a", ANN_TOO, ANNOUNCEMENT)
                for channel in ("a", "b"):
                    await dead.join(channel, ANN, ANNOUNCEMENT)
                await dead.aclose()
                found = await _claimed(one, store)
                assert [(departure.channel, departure.user) for departure in found] == [("b", "ann")]
                assert await one.members("a") == [ANN_TOO]

        asyncio.run(run())

    def test_a_claim_that_was_not_forgotten_is_claimed_again(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 3) as (dead, forgetful, other), _touching(other):
                await dead.join("a", ANN, ANNOUNCEMENT)
                await dead.aclose()
                first = await _claimed(forgetful, store, forget=False)
                await forgetful.aclose()
                again = await _claimed(other, store)
                assert again == first
                assert not await other.claim()

        asyncio.run(run())

    def test_a_claim_takes_as_many_as_it_is_asked(self, store: StoreUnderTest) -> None:
        if not store.shared:
            return

        async def run() -> None:
            async with open_presences(store, 2) as (dead, one), _touching(one):
                for n in range(10):
                    await dead.join("a", Member(str(n), f"user {n}"), ANNOUNCEMENT)
                await dead.aclose()
                sizes: list[int] = []

                async def are_all_claimed() -> bool:
                    found = await one.claim(4)
                    await one.forget(found)
                    if found:
                        sizes.append(len(found))
                    return sum(sizes) == 10

                await wait_until(are_all_claimed, store.departs_within, "ten departures")
                assert sizes == [4, 4, 2]

        asyncio.run(run())
