"""Joins, leaves and announcements: once for each user, whatever ends a connection and whatever the store does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tidewire.engine import membership
from tidewire.engine.node import Node
from tidewire.errors import ConnectionClosed, Disconnect, StoreUnavailable
from tidewire.messages import Announcement, Departure, Format, Member
from tidewire.protocols.close_codes import INTERNAL_ERROR, SHUTDOWN
from tidewire.testing import wait_until

from .support import Client, FailingBroker, FailingPresence, connect, open_node, run, turns


def text(value: str) -> Announcement:
    return Announcement(value.encode(), Format.TEXT)


async def enter(node: Node, user: str, channel: str = "a") -> Client:
    client = await connect(node, user=user)
    await client.subscribe(
        channel,
        join=text(f"{user} joined"),
        leave=text(f"{user} left"),
        leave_on_error=text(f"{user} failed"),
    )
    return client


async def said(node: Node) -> list[str]:
    return [publication.data.decode() for publication in (await node.broker.history("a")).publications]


async def wait_said(node: Node, *expected: str) -> None:
    async def is_said() -> bool:
        return await said(node) == list(expected)

    await wait_until(is_said, what=f"{expected} is said")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "_RETRY_SECONDS", 0.01)


def test_a_user_joins_and_leaves_once_with_several_devices() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            devices = [await enter(node, "ann") for _ in range(3)]
            bob = await enter(node, "bob")
            assert await said(node) == ["ann joined", "bob joined"]
            for device in devices:
                assert presence.users().count("ann") >= 1
                device.link.vanish()
                await turns(5)
            await wait_said(node, "ann joined", "bob joined", "ann left")
            bob.link.vanish()
            await wait_said(node, "ann joined", "bob joined", "ann left", "bob left")

    run(main())


@pytest.mark.parametrize(
    ("how", "expected"),
    [("clean", "left"), ("unclean", "left"), ("ours", "left"), ("unsubscribe", "left"), ("error", "failed")],
)
def test_every_end_says_announcement(how: str, expected: str) -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await enter(node, "ann")
            if how == "clean":
                client.link.vanish(Disconnect(1000, ""), clean=True)
            elif how == "unclean":
                client.link.vanish()
            elif how == "ours":
                client.connection.end(Disconnect(4000, ""))
            elif how == "unsubscribe":
                await node.unsubscribe(client.connection, "a")
                assert await said(node) == ["ann joined", "ann left"]
            else:
                client.connection.fail(INTERNAL_ERROR)
            await wait_said(node, "ann joined", f"ann {expected}")
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("join", [None, "joined"])
def test_who_vanishes_while_it_joins_is_told_of_if_nothing_announces_it(join: str | None) -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client = await connect(node, user="ann")
            presence.join_gate.clear()
            joining = asyncio.create_task(
                client.subscribe(join=None if join is None else text(join), leave=text("left"))
            )
            await turns(5)
            client.link.vanish()
            presence.join_gate.set()
            with pytest.raises(ConnectionClosed):
                await joining
            await wait_until(lambda: not presence.users())
            await wait_said(node, *(["left"] if join is None else []))

    run(main())


def test_the_second_device_of_an_announced_user_may_be_the_last_to_go() -> None:
    async def main() -> None:
        broker, presence = FailingBroker(), FailingPresence()
        async with open_node(broker=broker, presence=presence) as node:
            phone = await enter(node, "ann")
            laptop = await connect(node, user="ann")
            broker.history_gate.clear()
            entering = asyncio.create_task(
                laptop.subscribe(history=1, join=text("joined twice"), leave=text("ann left"))
            )
            await wait_until(lambda: presence.users() == ["ann", "ann"])
            phone.link.vanish()
            await wait_until(lambda: presence.users() == ["ann"])
            laptop.link.vanish()
            broker.history_gate.set()
            with pytest.raises(ConnectionClosed):
                await entering
            await wait_said(node, "ann joined", "ann left")

    run(main())


def test_who_leaves_and_joins_again_is_announced_again() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client = await connect(node, user="ann")
            for _ in range(3):
                await client.subscribe(join=text("joined"), leave=text("left"))
                await node.unsubscribe(client.connection, "a")
            await wait_said(node, *["joined", "left"] * 3)
            client.link.vanish()

    run(main())


def test_a_leave_that_is_under_way_does_not_end_the_next_stay() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence, publish_seconds=0.05) as node:
            client = await enter(node, "ann")
            presence.leave_gate.clear()
            await node.unsubscribe(client.connection, "a")
            subscribing = asyncio.create_task(client.subscribe(present=True))
            await turns(5)
            presence.leave_gate.set()
            await subscribing
            assert presence.users() == ["ann"]
            presence.leave_gate.clear()
            await node.unsubscribe(client.connection, "a")
            await client.subscribe(present=True)  # the store does not take the leave in time
            presence.leave_gate.set()
            await wait_until(lambda: presence.users() == [])
            await node.memberships.touch()
            assert presence.users() == ["ann"]
            client.link.vanish()

    run(main())


def test_a_announcement_is_kept_while_the_store_is_away() -> None:
    async def main() -> None:
        broker, presence = FailingBroker(), FailingPresence()
        async with open_node(broker, presence) as node:
            client = await enter(node, "ann")
            broker.away()
            presence.is_away = True
            client.link.vanish()
            await turns(5)
            presence.is_away = False
            await wait_until(lambda: presence.users() == [])
            broker.back()
            await wait_said(node, "ann joined", "ann left")

    run(main())


def test_a_leave_whose_answer_was_lost_is_said_once() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client = await enter(node, "ann")
            presence.silent_leaves = 2  # that of the own channel, and that of this one
            client.link.vanish()
            await wait_said(node, "ann joined", "ann left")

    run(main())


def test_who_comes_while_presence_is_away_is_a_member_later() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            presence.is_away = True
            client = await connect(node, user="ann")
            await client.subscribe(present=True)
            with pytest.raises(StoreUnavailable):
                await node.memberships.touch()
            presence.is_away = False
            await node.memberships.touch()
            assert presence.users() == ["ann"]
            assert presence.users("$user:ann") == ["ann"]
            client.link.vanish()
            await wait_until(lambda: presence.users() == [])

    run(main())


def test_a_join_that_cannot_be_published_is_said_later_or_not_at_all() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            first, second = await connect(node, user="ann"), await connect(node, user="bob")
            await first.subscribe()  # the channel is carried before the outage
            broker.away()
            for client in (first, second):
                await node.unsubscribe(client.connection, "a")
                await client.subscribe(join=text("joined"), leave=text("left"))
            second.link.vanish()
            await turns(5)
            broker.back()
            await wait_said(node, "joined")
            first.link.vanish()
            await wait_said(node, "joined", "left")

    run(main())


def test_a_lost_lease_joins_everybody_again_until_all_are_in() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            clients = [await enter(node, f"user {n}") for n in range(100)]
            presence.lease_lost = True
            original, joined = presence.join, 0

            async def failing_join(*arguments: object) -> object:
                nonlocal joined
                joined += 1
                if joined == 10:
                    raise StoreUnavailable("in the middle of it")
                return await original(*arguments)  # type: ignore[arg-type]

            presence.join = failing_join  # type: ignore[assignment, method-assign]
            with pytest.raises(StoreUnavailable):
                await node.memberships.touch()
            await node.memberships.touch()
            assert sorted(presence.users()) == sorted(f"user {n}" for n in range(100))
            for client in clients:
                client.link.vanish()
            await wait_until(lambda: presence.users() == [])

    run(main())


def test_members_of_the_node_itself_join_again_many_at_once() -> None:
    """There are three for each user where events are handled, and others tell that they left until they are in."""

    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            for n in range(100):
                await node.memberships.enter("mine", Member(str(n), f"user {n}"))
                await presence.leave("mine", str(n))  # as if it was claimed
            presence.lease_lost = True
            original, running, most = presence.join, 0, 0

            async def slow_join(*arguments: object) -> object:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await turns(2)
                running -= 1
                return await original(*arguments)  # type: ignore[arg-type]

            presence.join = slow_join  # type: ignore[assignment, method-assign]
            await node.memberships.touch()
            assert sorted(presence.users("mine")) == sorted(f"user {n}" for n in range(100))
            assert most == 64

    run(main())


@pytest.mark.parametrize("how", ["unsubscribe", "quit"])
def test_a_member_that_leaves_while_it_joins_again_is_gone(how: str) -> None:
    """The join that was on its way comes to the store behind the leave."""

    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client, mine = await enter(node, "ann"), Member("here", "node")
            await node.memberships.enter("a", mine)
            presence.lease_lost = True
            presence.join_gate.clear()
            joining = asyncio.create_task(node.memberships.touch())
            await turns(3)
            if how == "unsubscribe":
                await node.unsubscribe(client.connection, "a")
            else:
                await node.memberships.quit("a", mine)
            presence.join_gate.set()
            await joining
            assert presence.users() == (["node"] if how == "unsubscribe" else ["ann"])
            client.link.vanish()

    run(main())


def test_a_lease_that_is_lost_again_meanwhile_joins_everybody_once_more() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client = await enter(node, "ann")
            presence.lease_lost = True
            original = presence.join

            async def join(*arguments: object) -> object:
                presence.lease_lost, presence.join = True, original  # type: ignore[method-assign]
                return await original(*arguments)  # type: ignore[arg-type]

            presence.join = join  # type: ignore[assignment, method-assign]
            await node.memberships.touch()
            assert presence.users() == []
            await node.memberships.touch()
            assert presence.users() == ["ann"]
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("by_us", [True, False])
def test_a_drain_says_nothing_and_leaves_later_if_the_node_lives_on(
    by_us: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client = await enter(node, "ann")
            if by_us:
                client.connection.end(SHUTDOWN)
            else:  # a client may say 1012 too, and must not stay for ever
                client.link.vanish(Disconnect(1012, "service restart"), clean=True)
            await turns(5)
            await node.memberships.claim()
            await turns(5)
            assert await said(node) == ["ann joined"]
            assert presence.users() == [], "listed no longer"
            loop = asyncio.get_running_loop()
            now = loop.time()
            monkeypatch.setattr(loop, "time", lambda: now + 16.0)
            await node.memberships.claim()
            monkeypatch.undo()
            await wait_said(node, "ann joined", "ann left")

    run(main())


def test_closing_the_node_says_nothing() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            await enter(node, "ann")
        await turns(5)
        assert [p.data for p in (await broker.history("a")).publications] == [b"ann joined"]

    run(main())


def test_the_announcements_of_a_dead_node_are_published_once_then_forgotten() -> None:
    class Claiming(FailingPresence):
        def __init__(self) -> None:
            super().__init__()
            self.departures = [
                Departure("a", "ann", "token-1", text("ann left")),
                Departure("a", "bob", "token-2"),
            ]
            self.forgotten: list[Departure] = []

        async def claim(self, limit: int = 256) -> Sequence[Departure]:
            return self.departures

        async def forget(self, departures: Sequence[Departure]) -> None:
            self.forgotten.extend(departures)

    async def main() -> None:
        broker, presence = FailingBroker(), Claiming()
        async with open_node(broker, presence) as node:
            broker.away()
            with pytest.raises(Exception, match="away"):
                await node.memberships.claim()
            assert not presence.forgotten
            broker.back()
            await node.memberships.claim()
            await node.memberships.claim()
            assert await said(node) == ["ann left"]
            assert presence.forgotten == presence.departures * 2

    run(main())
