"""The engine: who is admitted, what a subscribe leaves behind when it fails, and what an outage costs."""

from __future__ import annotations

import asyncio

import pytest

from helpers.counting import reached
from tidewire.channel_options import ChannelOptions
from tidewire.channels import personal
from tidewire.engine.control import Control
from tidewire.engine.node import Node
from tidewire.errors import (
    BadRequest,
    ConfigurationError,
    ConnectionClosed,
    Disconnect,
    LimitExceeded,
    NotPublished,
    PublishUnconfirmed,
    StoreUnavailable,
)
from tidewire.messages import Announcement, Format, Position, WireMessage
from tidewire.protocols.close_codes import FORCED, NORMAL, SHUTDOWN
from tidewire.sessions.newcomers import admit, identify
from tidewire.support.counters import count_limit
from tidewire.testing import FakeLink, wait_until

from .support import PLAIN, FailingBroker, FailingPresence, connect, open_node, publish, run, turns

JOIN, LEAVE = Announcement(b"joined", Format.TEXT), Announcement(b"left", Format.TEXT)


# Admission.


async def come(node: Node, user: str, address: str) -> None:
    async with admit(node, user, address):
        pass


def test_limits_count_those_who_are_arriving() -> None:
    async def main() -> None:
        async with open_node(connections=2, connections_per_address=5) as node:
            async with admit(node, "", "1.2.3.4"):
                async with admit(node, "", "1.2.3.4"):
                    with pytest.raises(LimitExceeded, match="connections"):
                        await come(node, "", "1.2.3.4")
                client = await connect(node, address="5.6.7.8")
                with pytest.raises(LimitExceeded):
                    await come(node, "", "1.2.3.4")
            await come(node, "", "1.2.3.4")
            assert node.statistics().limits_reached == {"connections": 2}
            client.link.vanish()

    run(main())


def test_what_links_and_stores_count_is_part_of_the_statistics() -> None:
    async def main() -> None:
        async with open_node() as node:
            assert node.statistics().limits_reached == {}
            count_limit("fragments")
            count_limit("fragments")
            assert node.statistics().limits_reached == {"fragments": 2}

    run(main())


@pytest.mark.parametrize(
    ("address", "limited"),
    [("1.2.3.4", True), ("2001:db8::1", True), ("127.0.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False)],
)
def test_an_address_has_a_limit_but_loopback(address: str, limited: bool) -> None:
    async def main() -> None:
        async with open_node(connections_per_address=1) as node:
            client = await connect(node, address=address)
            if limited:
                with pytest.raises(LimitExceeded, match="connections_per_address"):
                    await come(node, "", address)
            else:
                await come(node, "", address)
            client.link.vanish()

    run(main())


def test_a_user_has_a_limit_also_while_the_store_is_away() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence, connections_per_user=2) as node:
            clients = [await connect(node, user="ann") for _ in range(2)]
            for away in (False, True):
                presence.is_away = away
                with pytest.raises(LimitExceeded, match="connections_per_user"):
                    await come(node, "ann", "1.2.3.4")
            assert not node.registry.arriving
            presence.is_away = False
            anonymous = await connect(node)
            with pytest.raises(LimitExceeded):
                await identify(node, anonymous.connection, "ann")
            await identify(node, anonymous.connection, "bob")
            with pytest.raises(BadRequest, match="belongs to 'bob'"):
                await identify(node, anonymous.connection, "cid")
            for client in (*clients, anonymous):
                client.link.vanish()

    run(main())


def test_who_has_gone_before_it_is_identified_leaves_nothing() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await connect(node)
            client.link.vanish()
            with pytest.raises(ConnectionClosed):
                await identify(node, client.connection, "ann")

    run(main())


# Users.


def test_what_is_sent_to_a_user_reaches_every_device() -> None:
    async def main() -> None:
        async with open_node() as node:
            devices = [await connect(node, PLAIN, user="ann") for _ in range(3)]
            other = await connect(node, PLAIN, user="bob")
            await publish(node, "hi", channel=personal("ann"))
            await turns(2)
            assert [device.shown for device in devices] == [["hi"]] * 3
            assert other.shown == []
            for client in (*devices, other):
                client.link.vanish()

    run(main())


def test_a_user_is_disconnected_behind_what_is_pending() -> None:
    async def main() -> None:
        async with open_node() as node:
            device, other = await connect(node, user="ann", channel="a"), await connect(node, user="bob")
            await publish(node, "1")
            await node.control(Control("ann", FORCED))
            await turns(2)
            assert device.offsets() == [1]
            assert device.link.closed_with == (FORCED.code, FORCED.reason)
            assert not other.connection.is_closed
            other.link.vanish()

    run(main())


# Subscriptions.


def test_a_channel_is_followed_once() -> None:
    async def main() -> None:
        async with open_node(channels=2) as node:
            client = await connect(node, channel="a")
            with pytest.raises(BadRequest, match="already"):
                await client.subscribe()
            await client.subscribe("b")
            with pytest.raises(LimitExceeded, match="2 channels"):
                await client.subscribe("c")
            assert reached()["channels"] == 1
            await node.unsubscribe(client.connection, "b")
            await node.unsubscribe(client.connection, "b")
            await client.subscribe("c")
            client.link.vanish()
            with pytest.raises(ConnectionClosed):
                await client.subscribe("b")

    run(main())


@pytest.mark.parametrize("gate", ["subscribe_gate", "history_gate", "join_gate"])
@pytest.mark.parametrize("how", ["cancel", "vanish", "unsubscribe"])
def test_an_interrupted_subscribe_leaves_nothing(gate: str, how: str) -> None:
    async def main() -> None:
        broker, presence = FailingBroker(), FailingPresence()
        async with open_node(broker, presence, publish_seconds=0.1) as node:
            client, other = await connect(node), await connect(node)
            closed = getattr(presence if gate == "join_gate" else broker, gate)
            closed.clear()
            task = asyncio.create_task(client.subscribe(history=5, join=JOIN, leave=LEAVE))
            waits = asyncio.create_task(other.subscribe(history=5))
            await turns(5)
            if how == "cancel":
                task.cancel()
            elif how == "vanish":
                client.link.vanish()
            else:
                await node.unsubscribe(client.connection, "a")
            await turns(2)
            closed.set()
            with pytest.raises((asyncio.CancelledError, ConnectionClosed, BadRequest)):
                await task
            await waits
            await wait_until(lambda: not presence.users())
            assert not client.subscriptions
            assert len(node.registry.channels["a"]) == 1
            await publish(node, "1")
            await turns(2)
            assert other.offsets() == [1]
            assert client.shown == []
            history = await broker.history("a")
            assert [p.data for p in history.publications] == [b"1"], "nobody came, so nobody has left"
            client.link.vanish()
            other.link.vanish()

    run(main())


def test_many_open_a_channel_once_and_fail_together() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            clients = [await connect(node) for _ in range(20)]
            broker.subscribe_gate.clear()
            tasks = [asyncio.create_task(client.subscribe()) for client in clients]
            await turns(3)
            broker.away()
            broker.subscribe_gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, StoreUnavailable) for result in results)
            assert "a" not in node.registry.channels
            broker.back()
            await asyncio.gather(*(client.subscribe() for client in clients))
            assert broker.carried.count("a") == 1
            await node.channels.sweep()
            assert broker.carried.count("a") == 1
            for client in clients:
                client.link.vanish()
            await node.channels.sweep()
            assert "a" not in broker.carried
            assert "a" not in node.registry.channels

    run(main())


def test_a_channel_that_is_dropped_can_be_followed_at_once() -> None:
    async def main() -> None:
        async with open_node() as node:
            for _ in range(20):
                client = await connect(node, channel="a")
                client.link.vanish()
                sweeping = asyncio.create_task(node.channels.sweep())
                again = await connect(node, channel="a")
                await sweeping
                await publish(node, "x")
                await turns(2)
                assert len(again.offsets()) == 1
                again.link.vanish()

    run(main())


@pytest.mark.parametrize("history", [0, 5])
def test_publications_during_a_reply_come_behind_it(history: int) -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            await publish(node, "1", "2", "3")
            client = await connect(node, link=FakeLink(high_water=100))
            broker.history_gate.clear()
            client.link.stall()
            task = asyncio.create_task(client.subscribe(history=history))
            await turns(8)
            await publish(node, "4")
            broker.history_gate.set()
            await turns(5)
            await publish(node, "5")
            await turns(5)
            client.link.take()
            await task
            await publish(node, "6")
            await turns(2)
            assert client.shown[0].startswith("s a ")
            assert client.offsets() == ([1, 2, 3, 4, 5, 6] if history else [4, 5, 6])
            client.link.vanish()

    run(main())


def test_a_large_reply_is_written_in_pages_that_wait() -> None:
    async def main() -> None:
        async with open_node(rules={"a": ChannelOptions(history_size=100)}, reply_bytes=4_000_000) as node:
            await publish(node, *["x" * 60_000] * 40)
            client = await connect(node)
            client.link.stall()
            task = asyncio.create_task(client.subscribe(history=40))
            await turns(10)
            assert client.link.backlog()[0] < 400_000
            for _ in range(20):
                client.link.take()
                client.link.stall()
                await turns(3)
            client.link.take()
            await task
            assert client.link.worst_backlog[0] < 400_000
            assert client.offsets() == list(range(1, 41))
            client.link.vanish()

    run(main())


def test_recovery_is_complete_or_says_so() -> None:
    async def main() -> None:
        async with open_node(rules={"a": ChannelOptions(history_size=3)}) as node:
            keeper = await connect(node, channel="a")
            await publish(node, *"12345")
            epoch = node.registry.channels["a"].position.epoch
            for since, recovered, shown in [
                (Position(5, epoch), True, []),
                (Position(3, epoch), True, [4, 5]),
                (Position(2, epoch), True, [3, 4, 5]),
                (Position(1, epoch), False, [4, 5]),
                (Position(6, epoch), False, [4, 5]),
                (Position(4, "other"), False, [4, 5]),
            ]:
                client = await connect(node)
                reply = await client.subscribe(since=since, history=2)
                assert (reply.recovered, client.offsets()) == (recovered, shown)
                assert reply.position == Position(5, epoch)
                client.link.vanish()
            keeper.link.vanish()

    run(main())


def test_an_epoch_that_changed_unseen_is_noticed_by_a_recovery() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            keeper = await connect(node, channel="a")
            await publish(node, *"123")
            await turns(2)
            position = node.registry.channels["a"].position
            broker.forget()
            client = await connect(node)
            reply = await client.subscribe(since=position)
            assert (reply.recovered, reply.position) == (False, Position(0, "new"))
            assert "i a" in keeper.shown
            assert "i a" not in client.shown
            await publish(node, "x")
            await turns(2)
            assert (keeper.offsets(), client.offsets()) == ([1, 2, 3, 1], [1])
            for each in (keeper, client):
                each.link.vanish()

    run(main())


def test_a_store_that_forgets_while_a_reply_is_under_way_is_told_behind_it() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            await publish(node, "x" * 300_000, "2", "3")
            client = await connect(node)
            client.link.stall()
            task = asyncio.create_task(client.subscribe(history=5))
            await turns(5)
            broker.forget()
            await publish(node, "n")
            await wait_until(lambda: reached()["gap"] == 1)
            await publish(node, "m")
            await turns(2)
            client.link.take()
            await task
            await publish(node, "o")
            await turns(2)
            kinds = [text.split(" ")[0] + text.split(" ")[2] if text[0] == "p" else text[0] for text in client.shown]
            assert kinds == ["s", "p1", "p2", "p3", "i", "p2", "p3"]
            client.link.vanish()

    run(main())


# Publishing and outages.


@pytest.mark.parametrize("error", [NotPublished("away"), PublishUnconfirmed("no answer")])
def test_a_failed_publish_is_raised_and_shows_as_degraded(error: Exception) -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            broker.away(error)
            with pytest.raises(type(error)):
                await publish(node, "1")
            assert node.tasks.degraded
            assert node.statistics().degraded
            assert reached()["publish_failed"] == 1
            assert not client.connection.is_closed
            broker.back()
            await publish(node, "2")
            assert not node.tasks.degraded
            await turns(2)
            assert client.offsets() == [1]
            client.link.vanish()

    run(main())


def test_an_outage_is_noticed_and_its_end_too() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            client = await connect(node, channel="a", user="ann")
            presence.is_away = True
            await wait_until(lambda: node.tasks.degraded)
            presence.is_away = False
            await wait_until(lambda: not node.tasks.degraded)
            assert not client.connection.is_closed
            client.link.vanish()

    run(main())


def test_a_key_makes_a_repetition_harmless() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await connect(node, channel="a")
            first = await node.publish("a", b"1", Format.TEXT, key="k")
            assert await node.publish("a", b"1", Format.TEXT, key="k") == first
            await turns(2)
            assert client.offsets() == [1]
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("gate", ["publish_gate"])
def test_a_cancelled_publish_leaves_nothing(gate: str) -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            getattr(broker, gate).clear()
            tasks = [asyncio.create_task(publish(node, "x")) for _ in range(5)]
            await turns(2)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            getattr(broker, gate).set()
            await publish(node, "1")
            assert node.statistics().published == 1

    run(main())


# The node's own life.


def test_a_node_that_cannot_start_closes_what_it_opened() -> None:
    class Refusing(FailingPresence):
        closed = False

        async def start(self, node: str) -> None:
            raise ConfigurationError("presence cannot be used")

        async def aclose(self) -> None:
            self.closed = True

    async def main() -> None:
        presence = Refusing()
        node = Node(FailingBroker(), presence)
        with pytest.raises(ConfigurationError):
            await node.start()
        assert presence.closed
        with pytest.raises(NotPublished):
            await node.publish("a", b"1")
        await node.aclose()

    run(main())


def test_closing_ends_connections_and_begins_nothing_new() -> None:
    async def main() -> None:
        presence = FailingPresence()
        node = Node(FailingBroker(), presence)
        await node.start()
        client, silent = await connect(node), await connect(node, link=FakeLink(answers_close=False))
        await client.subscribe(leave=LEAVE)
        await silent.subscribe(leave=LEAVE)
        await node.aclose()
        await turns(3)
        assert client.link.closed_with == (SHUTDOWN.code, SHUTDOWN.reason)
        silent.link.vanish()
        with pytest.raises(StoreUnavailable, match="closed"):
            await node.channels.open("b")
        with pytest.raises(ConnectionClosed):
            await silent.subscribe("b")
        await node.aclose()

    run(main())


def test_a_code_and_reason_reach_the_link() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await connect(node)
            node.send(client.connection, WireMessage(b"last"))
            client.connection.end(Disconnect(4321, "because"))
            node.send(client.connection, WireMessage(b"never"))
            assert client.shown == ["last"]
            assert client.link.closed_with == (4321, "because")
            await turns(2)
            assert client.connection.disconnect == Disconnect(4321, "because")
            assert client.connection.disconnect != NORMAL

    run(main())


def test_what_is_published_while_a_subscribe_waits_for_presence_is_its_own() -> None:
    async def main() -> None:
        presence = FailingPresence()
        async with open_node(presence=presence) as node:
            first, second = await connect(node, channel="a"), await connect(node)
            await publish(node, "before")
            presence.join_gate.clear()
            subscribing = asyncio.create_task(second.subscribe(present=True))
            await turns(1)
            await publish(node, "meanwhile")
            await turns(3)
            assert first.offsets() == [1, 2]
            presence.join_gate.set()
            assert (await subscribing).position.offset == 1
            await publish(node, "after")
            await turns(2)
            assert second.offsets() == [2, 3]
            first.link.vanish()
            second.link.vanish()

    run(main())


def test_a_store_that_forgets_while_a_subscribe_waits_for_presence_harms_nobody() -> None:
    async def main() -> None:
        broker, presence = FailingBroker(), FailingPresence()
        async with open_node(broker, presence) as node:
            first, second = await connect(node, channel="a"), await connect(node)
            await publish(node, "1", "2")
            presence.join_gate.clear()
            subscribing = asyncio.create_task(second.subscribe(present=True))
            await turns(1)
            broker.forget()
            await publish(node, "new")
            await wait_until(lambda: "i a" in first.shown)
            presence.join_gate.set()
            assert (await subscribing).position == node.registry.channels["a"].position
            await publish(node, "after")
            await wait_until(lambda: second.offsets() == [2])
            first.link.vanish()
            second.link.vanish()

    run(main())
