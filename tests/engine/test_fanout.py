"""Steps 6 to 9: order, gaps, turns, and what a slow client costs."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from helpers.counting import reached
from tidewire.channel_options import ChannelOptions, SlowPolicy
from tidewire.engine.control import Control
from tidewire.messages import Format, Publication, WireMessage
from tidewire.protocols.base import Protocol
from tidewire.protocols.close_codes import INSUFFICIENT, SLOW
from tidewire.testing import FakeLink, wait_until

from .support import PLAIN, FailingBroker, OffsetProtocol, connect, open_node, publish, run, turns


def test_one_turn_is_one_write_for_each_link() -> None:
    async def main() -> None:
        async with open_node() as node:
            clients = [await connect(node, channel="a") for _ in range(5)]
            for client in clients:
                client.link.writes = 0
            await publish(node, *"123456789")
            await turns(2)
            for client in clients:
                assert client.offsets() == list(range(1, 10))
                assert client.link.writes == 1
            assert node.statistics().deliveries == 45
            for client in clients:
                client.link.vanish()

    run(main())


def test_a_publisher_to_few_gives_the_loop_a_turn_when_much_waits() -> None:
    async def main() -> None:
        async with open_node() as node:
            clients = [await connect(node, channel="a") for _ in range(40)]
            await publish(node, *map(str, range(511)))
            assert not node.fanout.is_full  # forty writes for so few publications would be dear
            await publish(node, "511")
            assert node.fanout.is_full
            await turns(2)
            assert not node.fanout.is_full
            for client in clients:
                assert client.offsets() == list(range(1, 513))
                client.link.vanish()

    run(main())


def test_subscribers_that_share_a_representation_share_the_bytes() -> None:
    async def main() -> None:
        async with open_node() as node:
            batches: list[Any] = []

            class Recording(FakeLink):
                def write(self, batch: Any) -> None:
                    super().write(batch)
                    batches.append(batch)

            clients = [await connect(node, link=Recording(deflate=n > 1)) for n in range(4)]
            for client in clients:
                await client.subscribe(reply=False)
            await publish(node, "1")
            await turns(2)
            assert len(batches) == 4
            assert len({id(batch.joined) for batch in batches}) == 2
            for client in clients:
                client.link.vanish()

    run(main())


def test_duplicates_are_dropped() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            await publish(node, "1", "2")
            page = await broker.history("a")
            broker.deliver(page.publications)
            broker.deliver(page.publications[:1])
            await publish(node, "3")
            await turns(2)
            assert client.offsets() == [1, 2, 3]
            assert (node.channels.duplicates, node.channels.gaps) == (3, 0)
            client.link.vanish()

    run(main())


def test_a_stride_between_offsets_is_no_gap() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            epoch = node.registry.channels["a"].position.epoch
            for previous, offset in ((0, 5), (5, 9), (3, 12)):
                broker.deliver((Publication("a", offset, previous, epoch, 0.0, b"x", Format.TEXT),))
            await turns(2)
            assert client.offsets() == [5, 9, 12]
            assert node.channels.gaps == 0
            client.link.vanish()

    run(main())


def test_a_gap_is_filled_before_anything_later_is_shown() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            await publish(node, "1")
            broker.loses = True
            await publish(node, "2", "3")
            broker.loses = False
            broker.history_gate.clear()
            await publish(node, "4", "5")
            await turns(5)
            assert client.offsets() == [1]
            assert node.registry.channels["a"].catching_up
            broker.history_gate.set()
            await wait_until(lambda: client.offsets() == [1, 2, 3, 4, 5])
            assert node.channels.gaps == 1
            client.link.vanish()

    run(main())


def test_a_gap_waits_for_a_store_that_is_away() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            broker.loses = True
            await publish(node, "1")
            broker.loses = False
            await publish(node, "2")
            broker.away(ValueError("a bug in a driver"))
            await turns(5)
            assert client.offsets() == []
            broker.back()
            await wait_until(lambda: client.offsets() == [1, 2])
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("tells", [True, False])
def test_a_gap_that_cannot_be_filled_is_told(tells: bool) -> None:
    async def main() -> None:
        broker = FailingBroker()
        rules = {"a": ChannelOptions(history_size=2)}
        async with open_node(broker, rules=rules) as node:
            client = await connect(node, OffsetProtocol(tells=tells), channel="a")
            broker.loses = True
            await publish(node, *"1234")
            broker.loses = False
            await publish(node, "5")
            await wait_until(lambda: reached()["gap"] == 1)
            if not tells:
                assert client.link.closed_with == (INSUFFICIENT.code, INSUFFICIENT.reason)
                return
            await publish(node, "6")
            await turns(2)
            assert client.shown[1:] == ["i a", f"p a 6 {node.registry.channels['a'].position.epoch} 6"]
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("limit", [{"gap_messages": 3}, {"gap_bytes": 3}])
def test_a_gap_larger_than_the_limit_is_told(limit: dict[str, int]) -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker, **limit) as node:
            client = await connect(node, channel="a")
            broker.loses = True
            await publish(node, *"12345")
            broker.loses = False
            await publish(node, "6")
            await wait_until(lambda: "i a" in client.shown)
            assert client.offsets() == []
            assert node.statistics().limits_reached == limit.fromkeys(limit, 1)
            client.link.vanish()

    run(main())


def test_what_waits_while_catching_up_is_bounded_and_nothing_is_lost() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker, gap_messages=10) as node:
            client = await connect(node, channel="a")
            broker.loses = True
            await publish(node, "1")
            broker.loses = False
            broker.history_gate.clear()
            await publish(node, "2")
            await turns(5)  # history is read here, up to 2
            channel = node.registry.channels["a"]
            for number in range(3, 11):
                await publish(node, str(number))
            await publish(node, "11", "12")
            assert channel.overrun
            assert len(channel.waiting) <= 10
            broker.history_gate.set()
            await wait_until(lambda: client.offsets() == list(range(1, 13)))
            client.link.vanish()

    run(main())


def test_a_new_epoch_is_told_and_the_channel_goes_on() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            await publish(node, *"123")
            await turns(2)
            broker.forget()
            await publish(node, "x")
            await wait_until(lambda: "i a" in client.shown)
            await publish(node, "y")
            await turns(2)
            assert client.shown[-1] == "p a 2 new y"
            client.link.vanish()

    run(main())


def test_a_lost_tail_is_found_by_its_position() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            await node.channels.check_positions()
            assert node.channels.gaps == 0
            broker.loses = True
            await publish(node, "1", "2")
            broker.loses = False
            await turns(3)
            assert client.offsets() == []
            node.tasks.hurry()
            await wait_until(lambda: client.offsets() == [1, 2])
            client.link.vanish()

    run(main())


def test_nothing_older_than_its_reply_follows_a_quick_subscribe() -> None:
    async def main() -> None:
        async with open_node(turn_seconds=0.0) as node:
            crowd = [await connect(node, channel="a") for _ in range(100)]
            client = await connect(node, channel="a")
            await publish(node, "1", "2")
            await turns(1)  # the first part of the crowd has them, this client has not
            await node.unsubscribe(client.connection, "a")
            await publish(node, "3")
            await client.subscribe()
            await publish(node, "4")
            await turns(30)
            text = " ".join(shown.split(" ")[0] + shown.split(" ")[2] for shown in client.shown)
            assert text == "s0 p1 p2 s3 p4"
            for each in crowd:
                assert each.offsets() == [1, 2, 3, 4]
                each.link.vanish()
            client.link.vanish()

    run(main())


def test_a_direct_send_comes_behind_what_is_pending() -> None:
    async def main() -> None:
        async with open_node(turn_seconds=0.0) as node:
            crowd = [await connect(node, channel="a") for _ in range(80)]
            client = crowd[-1]
            await publish(node, "1", "2")
            node.send(client.connection, WireMessage(b"direct 0 1"))
            await turns(1)
            await publish(node, "3")
            node.send(client.connection, WireMessage(b"direct 0 2"))
            await turns(30)
            kinds = [text.split(" ")[0] + text.split(" ")[2] for text in client.shown[1:]]
            assert kinds == ["p1", "p2", "direct1", "p3", "direct2"]
            for each in crowd:
                assert each.offsets() == [1, 2, 3]
                each.link.vanish()

    run(main())


def test_a_turn_ends_with_its_time_and_goes_on_in_the_next() -> None:
    async def main() -> None:
        async with open_node(turn_seconds=0.0) as node:
            crowd = [await connect(node, channel="ab"[index % 2]) for index in range(200)]
            await publish(node, *"123", channel="a")
            await publish(node, *"12", channel="b")
            await turns(1)
            assert 0 < sum(len(client.link.sent) > 1 for client in crowd) < 200
            await turns(20)
            for index, client in enumerate(crowd):
                assert client.offsets("ab"[index % 2]) == ([1, 2, 3] if index % 2 == 0 else [1, 2])
                client.link.vanish()

    run(main())


# Slow clients.


def test_a_burst_larger_than_the_outbox_cuts_nobody_who_reads() -> None:
    async def main() -> None:
        async with open_node(outbox_bytes=100_000, turn_seconds=60.0) as node:
            client = await connect(node, channel="a")
            for name in "bcd":
                await client.subscribe(name)
            for _ in range(3):
                client.link.stall()
                for name in "abcd":  # the second of them finds the link paused by the first, in the same turn
                    await publish(node, "x" * 300_000, channel=name)
                await turns(2)
                assert client.link.paused
                client.link.take()
            assert not client.connection.is_closed
            assert [client.offsets(name) for name in "abcd"] == [[1, 2, 3]] * 4
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("limits", [{"outbox_bytes": 100_000}, {"outbox_messages": 50, "outbox_bytes": 1 << 40}])
def test_a_frozen_client_is_cut_with_bounded_memory(limits: dict[str, int]) -> None:
    async def main() -> None:
        async with open_node(**limits) as node:
            frozen, other = await connect(node, channel="a"), await connect(node, channel="a")
            frozen.link.stall()
            for _ in range(1_000):
                await publish(node, "x" * 2_000)
                await turns(2)
            assert frozen.link.closed_with == (SLOW.code, SLOW.reason)
            assert frozen.link.worst_backlog[0] < 300_000
            assert other.offsets() == list(range(1, 1_001))
            assert node.statistics().slow_disconnects == 1
            assert node.statistics().limits_reached == {next(iter(limits)): 1}
            other.link.vanish()

    run(main())


def test_a_client_that_takes_now_and_then_stays() -> None:
    async def main() -> None:
        async with open_node(outbox_bytes=100_000) as node:
            client = await connect(node, channel="a")
            for number in range(400):
                if number % 30 == 0:
                    client.link.take()
                    client.link.stall()
                await publish(node, "x" * 3_000)
                await turns(2)
            assert not client.connection.is_closed
            assert client.offsets() == list(range(1, 401))
            client.link.vanish()

    run(main())


def test_latest_keeps_only_the_newest() -> None:
    async def main() -> None:
        async with open_node(rules={"a": ChannelOptions(slow=SlowPolicy.LATEST)}) as node:
            client = await connect(node, channel="a", link=FakeLink(high_water=10))
            client.link.stall()
            for number in range(1, 101):
                await publish(node, str(number))
                await turns(2)
            assert client.offsets() == [1]
            client.link.take()
            assert client.offsets() == [1, 100]
            await publish(node, "101")
            await turns(2)
            assert client.offsets() == [1, 100, 101]
            assert node.statistics().superseded == 98
            client.link.vanish()

    run(main())


def test_drop_counts_and_tells() -> None:
    async def main() -> None:
        async with open_node(rules={"a": ChannelOptions(slow=SlowPolicy.DROP)}) as node:
            client = await connect(node, channel="a", link=FakeLink(high_water=10))
            client.link.stall()
            for number in range(1, 101):
                await publish(node, str(number))
                await turns(2)
            client.link.take()
            await publish(node, "101")
            await turns(2)
            assert client.offsets() == [1, 101]
            assert "d a 99" in client.shown
            assert node.statistics().dropped == 99
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("policy", SlowPolicy)
def test_what_waits_behind_a_reply_is_bounded_as_the_policy_says(policy: SlowPolicy) -> None:
    async def main() -> None:
        rules = {"a": ChannelOptions(slow=policy)}
        async with open_node(rules=rules, outbox_messages=50) as node:
            await publish(node, "x" * 300_000)
            client = await connect(node)
            client.link.stall()
            subscribing = asyncio.create_task(client.subscribe(history=5))
            await turns(5)
            for number in range(2, 203):
                await publish(node, str(number))
                await turns(2)
            if policy is SlowPolicy.DISCONNECT:
                assert client.link.closed_with == (SLOW.code, SLOW.reason)
                with pytest.raises(Exception, match="slow"):
                    await subscribing
                return
            client.link.take()
            await subscribing
            await turns(2)
            offsets, statistics = client.offsets(), node.statistics()
            assert offsets == sorted(set(offsets))
            assert len(offsets) + statistics.dropped + statistics.superseded == 202
            if policy is SlowPolicy.LATEST:
                assert offsets[-1] == 202
            else:
                assert f"d a {statistics.dropped}" in client.shown
            client.link.vanish()

    run(main())


# Faults.


class Poisoned(OffsetProtocol):
    def encode_publication(self, publication: Publication) -> WireMessage:
        if publication.data == b"poison":
            raise ValueError("a publication that cannot be encoded")
        return super().encode_publication(publication)


def test_a_publication_that_cannot_be_encoded_does_not_stop_its_channel() -> None:
    async def main() -> None:
        async with open_node() as node:
            client, other = await connect(node, Poisoned(), channel="a"), await connect(node, channel="b")
            await publish(node, "1", "poison", "3")
            await publish(node, "1", channel="b")
            await turns(2)
            assert client.shown[1:] == ["i a"]
            assert other.offsets("b") == [1]
            await publish(node, "4")
            await turns(2)
            assert client.offsets() == [4]
            client.link.vanish()
            other.link.vanish()

    run(main())


def test_who_ends_while_a_batch_is_written_gets_nothing_more() -> None:
    async def main() -> None:
        async with open_node() as node:
            clients = [await connect(node, channel="a") for _ in range(3)]

            class Ending(FakeLink):
                def write(self, batch: Any) -> None:
                    super().write(batch)
                    clients[1].link.vanish()

            ending = await connect(node, link=Ending())
            await ending.subscribe(reply=False)
            node.registry.channels["a"].groups[ending.connection.representation].snapshot = (
                *(s for s in node.registry.channels["a"].subscriptions() if s.connection is ending.connection),
                *(s for s in node.registry.channels["a"].subscriptions() if s.connection is not ending.connection),
            )
            await publish(node, "1")
            await turns(2)
            assert [client.offsets() for client in clients] == [[1], [], [1]]
            for client in (clients[0], clients[2], ending):
                client.link.vanish()

    run(main())


def test_publishing_leaves_no_garbage_in_cycles() -> None:
    async def main() -> None:
        async with open_node() as node:
            clients = [await connect(node, PLAIN, channel="a") for _ in range(20)]
            await publish(node, *"12345")
            await turns(2)
            gc.collect()
            gc.disable()
            try:
                for _ in range(200):
                    await publish(node, "x")
                    clients[0].link.receive("hello")
                    assert clients[0].connection.receive_nowait() == "hello"
                    await turns(1)
                assert gc.collect() == 0
            finally:
                gc.enable()
            for client in clients:
                client.link.vanish()

    run(main())


def test_everybody_is_pushed_behind_what_is_pending() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            follower, stranger = await connect(node, channel="a"), await connect(node)
            await publish(node, "1")
            await node.control(Control(everybody=True), b"all")
            await turns(2)
            assert [text.split(" ")[0:2] for text in follower.shown[1:]] == [["p", "a"], ["p", "$control"]]
            assert len(stranger.shown) == 1
            page = await broker.history("$control")
            broker.deliver(page.publications)
            assert len(stranger.shown) == 1, "a duplicate is not obeyed"
            broker.loses = True
            await node.control(Control(everybody=True), b"lost on its way")
            broker.loses = False
            await node.channels.check_positions()
            await wait_until(lambda: len(stranger.shown) == 2, what="a lost control message is found")
            follower.link.vanish()
            stranger.link.vanish()

    run(main())


def test_a_push_to_everybody_ends_with_the_turns_time_and_a_direct_send_comes_behind_it() -> None:
    async def main() -> None:
        async with open_node(turn_seconds=0.0) as node:
            clients = [await connect(node, channel="a" if number % 2 else "") for number in range(150)]
            slow = clients[0]
            await node.control(Control(everybody=True), b"first", Format.TEXT)
            await node.control(Control(everybody=True), b"second", Format.TEXT)
            await wait_until(lambda: node.fanout.is_broadcasting)
            given = sum(bool(client.shown) for client in clients)
            assert given < len(clients)
            assert not slow.shown
            node.send(slow.connection, WireMessage(b"direct"))
            assert [text.rsplit(" ", 1)[-1] for text in slow.shown] == ["first", "second", "direct"]
            gone = clients[1]
            gone.link.vanish()
            await wait_until(lambda: not node.fanout.is_broadcasting)
            for client in clients[2:]:
                assert [text.rsplit(" ", 1)[-1] for text in client.shown[-2:]] == ["first", "second"]
            assert len(slow.shown) == 3
            for client in clients:
                client.link.vanish()

    run(main())


def test_a_control_message_of_another_version_is_passed_over() -> None:
    async def main() -> None:
        async with open_node() as node:
            await node.publish("$control", b"", meta=b'{"user": 3}')
            await node.publish("$control", b"", meta=b"\xff")
            client = await connect(node, channel="a")
            await publish(node, "1")
            await turns(2)
            assert client.offsets() == [1]
            client.link.vanish()

    run(main())


def test_protocols_are_asked_once_for_each_publication() -> None:
    async def main() -> None:
        asked: list[int] = []

        class Counting(OffsetProtocol):
            def encode_publication(self, publication: Publication) -> WireMessage:
                asked.append(publication.offset)
                return super().encode_publication(publication)

        protocol: Protocol[Any] = Counting()
        async with open_node() as node:
            clients = [await connect(node, protocol, channel="a") for _ in range(50)]
            await publish(node, "1", "2")
            await turns(2)
            assert asked == [1, 2]
            for client in clients:
                client.link.vanish()

    run(main())


def test_the_fanout_forgets_who_has_gone() -> None:
    async def main() -> None:
        async with open_node() as node:
            client = await connect(node, channel="a", link=FakeLink(high_water=10))
            client.link.stall()
            for _ in range(5):
                await publish(node, "x" * 100)
                await turns(2)
            assert node.fanout.slow._paused
            client.link.vanish()
            assert not node.fanout.slow._paused

    run(main())
