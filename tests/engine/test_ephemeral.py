"""What nobody keeps: who is given it, in which order, and what a slow client gets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from helpers.counting import reached
from tidewire.backends.memory import MemoryPresence
from tidewire.backends.shared.relayed import unpack_ephemeral
from tidewire.backends.sqlite import SqliteBroker
from tidewire.channel_options import ChannelOptions, SlowPolicy
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, LimitExceeded, NotPublished
from tidewire.limits import Limits
from tidewire.messages import Announcement, Format, Position, Publication, WireMessage
from tidewire.protocols.meta import PublicationMeta

from .support import Client, FailingBroker, OffsetProtocol, connect, open_node, publish, run, turns, wait_until

EPHEMERAL = {"a": ChannelOptions(ephemeral=True)}


async def cast(node: Node, *texts: str, sender: str = "", but_not: str = "") -> None:
    meta = PublicationMeta(but_not=but_not).encode()
    for text in texts:
        position = await node.publish("a", text.encode(), Format.TEXT, ephemeral=True, sender=sender, meta=meta)
        assert position == Position(0, "")


def block(client: Client) -> None:
    """Let a client take nothing until `take`: its link is paused."""
    client.link.stall()
    client.link.paused = True


def test_it_goes_to_those_who_are_there_and_takes_no_offset() -> None:
    async def main() -> None:
        async with open_node() as node:
            early = await connect(node, channel="a")
            await publish(node, "1")
            await turns(2)
            await cast(node, "typing")
            await publish(node, "2")  # what is kept never overtakes what was published before it
            await wait_until(lambda: len(early.shown) == 4)
            assert early.offsets() == [1, 0, 2]
            late = await connect(node)
            answer = await late.subscribe(since=Position(0, ""))
            assert [p.offset for p in answer.publications] == [1, 2]
            assert (await node.broker.history("a")).top.offset == 2
            assert node.statistics().gaps == node.statistics().duplicates == 0
            early.link.vanish()
            late.link.vanish()

    run(main())


def test_a_rule_makes_it_the_way_of_a_channel_and_one_publication_may_differ() -> None:
    async def main() -> None:
        async with open_node(rules=EPHEMERAL) as node:
            client = await connect(node, channel="a")
            await node.publish("a", b"gone", Format.TEXT)
            assert (await node.publish("a", b"kept", Format.TEXT, ephemeral=False)).offset == 1
            await node.publish("b", b"other", Format.TEXT)
            await wait_until(lambda: client.offsets() == [0, 1])
            assert [p.data for p in (await node.broker.history("a")).publications] == [b"kept"]
            client.link.vanish()

    run(main())


def test_an_announcement_is_kept_where_publications_are_not() -> None:
    async def main() -> None:
        async with open_node(rules=EPHEMERAL) as node:
            client = await connect(node, user="ann")
            await client.subscribe(join=Announcement(b"ann came"))
            await wait_until(lambda: client.offsets() == [1])
            client.link.vanish()

    run(main())


def test_what_comes_within_the_time_is_one_write() -> None:
    async def main() -> None:
        async with open_node(ephemeral_seconds=0.05) as node:
            client = await connect(node, channel="a")
            await cast(node, "0")
            await wait_until(lambda: len(client.shown) == 2)
            client.link.writes = 0
            for n in range(1, 20):
                await cast(node, str(n))
                await turns(2)
            await wait_until(lambda: len(client.shown) == 21)
            assert [text.split()[-1] for text in client.shown[1:]] == [str(n) for n in range(20)]
            assert client.link.writes <= 2
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("policy", list(SlowPolicy))
def test_a_slow_client_gets_the_newest_of_each_sender_and_is_never_cut_off(policy: SlowPolicy) -> None:
    async def main() -> None:
        options = ChannelOptions(slow=policy)
        async with open_node(rules={"a": options}, ephemeral_seconds=0, outbox_messages=3, outbox_bytes=12) as node:
            slow, quick = await connect(node, channel="a"), await connect(node, channel="a")
            block(slow)
            for n in range(50):
                await cast(node, f"ann-{n}", sender="ann")
                await cast(node, f"bob-{n}", sender="bob")
                await turns(2)
            await wait_until(lambda: len(quick.shown) == 101)
            assert len(slow.shown) == 1
            slow.link.take()
            assert [text.split()[-1] for text in slow.shown[1:]] == ["ann-49", "bob-49"]
            assert node.statistics().superseded == 98
            assert not slow.connection.is_closed
            slow.link.vanish()
            quick.link.vanish()

    run(main())


def test_many_senders_do_not_fill_a_slow_client() -> None:
    async def main() -> None:
        async with open_node(ephemeral_seconds=0, outbox_messages=5) as node:
            slow = await connect(node, channel="a")
            block(slow)
            for n in range(50):
                await cast(node, str(n), sender=f"s{n}")
                await turns(2)
            slow.link.take()
            assert [text.split()[-1] for text in slow.shown[1:]] == ["45", "46", "47", "48", "49"]
            slow.link.vanish()

    run(main())


def test_a_publisher_that_never_waits_leaves_the_newest_of_each_sender() -> None:
    async def main() -> None:
        async with open_node(outbox_messages=10) as node:
            client = await connect(node, channel="a")
            for n in range(1_000):
                await cast(node, str(n), sender=str(n % 2))
            await wait_until(lambda: client.shown[-1].endswith(" 999"))
            assert len(client.shown) <= 11
            client.link.vanish()

    run(main())


def test_a_publisher_that_never_waits_may_publish_for_many_senders() -> None:
    """Each one beyond the limit took as long as all before it: 8,000 entries of a map stopped a loop for 30 s."""

    async def main() -> None:
        async with open_node(outbox_messages=10) as node:
            before = reached().get("outbox_messages", 0)
            client = await connect(node, channel="a")
            for n in range(1_000):
                await cast(node, str(n), sender=str(n))
            await wait_until(lambda: client.shown[-1].endswith(" 999"))
            assert [text.split()[-1] for text in client.shown[1:]] == [str(n) for n in range(1_000)]
            assert 0 < reached()["outbox_messages"] - before < 1_000 / 4
            client.link.vanish()

    run(main())


@pytest.mark.parametrize("payload", [b"", b"\x00", msgspec.msgpack.encode(("node", 2, []))])
def test_what_another_version_has_sent_is_counted(payload: bytes) -> None:
    async def main() -> None:
        assert unpack_ephemeral(payload, "other") == []
        assert reached() == {"relay": 1}

    run(main())


@pytest.mark.parametrize("ephemeral", [True, False])
@pytest.mark.parametrize("stalled", [True, False])
def test_a_publication_is_not_for_one_connection(ephemeral: bool, stalled: bool) -> None:
    async def main() -> None:
        async with open_node() as node:
            sender, other = await connect(node, channel="a"), await connect(node, channel="a")
            if stalled:
                block(sender)
            meta = PublicationMeta(but_not=sender.connection.id).encode()
            for n in range(4):
                await node.publish("a", b"%d" % n, Format.TEXT, meta=meta if n % 2 else b"", ephemeral=ephemeral)
            await wait_until(lambda: len(other.shown) == 5)
            await publish(node, "end")
            await wait_until(lambda: other.shown[-1].endswith(" end"))
            if stalled:
                sender.link.take()
            # of what nobody keeps, a slow client is given the newest
            expected = ["2", "end"] if stalled and ephemeral else ["0", "2", "end"]
            await wait_until(lambda: sorted(text.split()[-1] for text in sender.shown[1:]) == expected)
            sender.link.vanish()
            other.link.vanish()

    run(main())


def test_what_cannot_be_is_refused() -> None:
    async def main() -> None:
        async with open_node(ephemeral_bytes=10) as node:
            with pytest.raises(BadRequest, match="key='k' needs a publication that is kept"):
                await node.publish("a", b"1", ephemeral=True, key="k")
            with pytest.raises(LimitExceeded, match="at most 10 bytes"):
                await node.publish("a", b"12345678901", ephemeral=True)
            await node.publish("a", b"12345678901")
            assert node.statistics().limits_reached["ephemeral_bytes"] == 1
        with pytest.raises(NotPublished):
            await node.publish("a", b"1", ephemeral=True)

    run(main())


def test_a_store_that_is_away_does_not_matter_here() -> None:
    async def main() -> None:
        broker = FailingBroker()
        async with open_node(broker) as node:
            client = await connect(node, channel="a")
            broker.away()
            await cast(node, "still")
            await wait_until(lambda: len(client.shown) == 2)
            broker.back()
            client.link.vanish()

    run(main())


def test_two_processes_of_sqlite_exchange_it_without_a_row(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "chat.db"
        nodes = [Node(SqliteBroker(path, Limits()), MemoryPresence(), limits=Limits()) for _ in range(2)]
        for node in nodes:
            await node.start()
        try:
            clients = [await connect(node, channel="a") for node in nodes]
            for n in range(500):
                await cast(nodes[n % 2], str(n), sender=str(n % 2))
            for client in clients:
                await wait_until(lambda client=client: len(client.shown) == 501)  # type: ignore[misc]
            assert (await nodes[0].broker.history("a")).top.offset == 0
        finally:
            for node in nodes:
                await node.aclose()

    run(main())


def test_what_is_kept_overtakes_it_on_no_node(tmp_path: Path) -> None:
    async def main() -> None:
        limits = Limits(ephemeral_seconds=5.0)  # what is kept comes long before the next beat
        nodes = [Node(SqliteBroker(tmp_path / "chat.db", limits), MemoryPresence(), limits=limits) for _ in range(2)]
        for node in nodes:
            await node.start()
        try:
            clients = [await connect(node, channel="a") for node in nodes]
            await cast(nodes[0], "first")
            await wait_until(lambda: all(len(client.shown) == 2 for client in clients))
            for n in range(5):
                await cast(nodes[0], f"typing {n}")
                await nodes[0].publish("b", b"elsewhere")
                await publish(nodes[0], f"text {n}")
            for client in clients:
                await wait_until(lambda client=client: len(client.shown) == 12)  # type: ignore[misc]
                texts = [text.partition("  ")[2] or text.split(" ", 4)[-1] for text in client.shown[2:]]
                assert all(texts.index(f"typing {n}") < texts.index(f"text {n}") for n in range(5))
        finally:
            for node in nodes:
                await node.aclose()

    run(main())


def test_a_subscriber_that_is_live_before_the_last_step_is_given_each_once() -> None:
    async def main() -> None:
        async with open_node() as node:
            for _ in range(33):  # the first step ends behind 32 of them
                await connect(node, channel="a")
            protocol = OffsetProtocol()  # with a representation of its own
            await connect(node, protocol, channel="a")
            late = await connect(node, protocol)
            prepared = await node.subscriptions.prepare(late.connection, "a")
            channel = node.registry.channels["a"]
            await cast(node, "1", "2", sender="x")
            push = node.fanout.ephemeral._push_channel(channel)
            next(push)
            await node.subscriptions.go_live(prepared)
            for _ in push:
                pass
            assert [text.split(" ")[-1] for text in late.shown] == ["2"]

    run(main())


def test_what_is_held_back_for_a_slow_client_is_bounded_in_bytes() -> None:
    async def main() -> None:
        async with open_node(outbox_bytes=10_000) as node:
            client = await connect(node, channel="a")
            await client.subscribe("b")
            client.link.paused = True
            for channel in "ba":
                for number in range(20):
                    data = f"{channel}{number}".ljust(1_000, ".").encode()
                    await node.publish(channel, data, Format.TEXT, ephemeral=True, sender=str(number))
            await wait_until(lambda: node.fanout.ephemeral.superseded == 30)
            assert sum(len(one.data) for one in node.fanout.ephemeral._held[client.connection].values()) == 10_000
            assert reached()["outbox_bytes"] == 30
            assert (client.subscriptions["b"].lost, client.subscriptions["a"].lost) == (20, 10)
            client.link.paused = False
            node.fanout.release(client.connection)
            assert not node.fanout.ephemeral._held_bytes
            assert len([text for text in client.shown if text.startswith("p a")]) == 10

    run(main())


def test_one_that_cannot_be_encoded_costs_no_other_channel_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Choosy(OffsetProtocol):
        def encode_publication(self, publication: Publication) -> WireMessage:
            if publication.channel == "a":
                raise ValueError("not this one")
            return super().encode_publication(publication)

    async def main() -> None:
        async with open_node() as node:
            client = await connect(node, Choosy(), channel="a")
            await client.subscribe("b")
            for channel in "aba":
                await node.publish(channel, b"x", Format.TEXT, ephemeral=True)
            await wait_until(lambda: "p b 0  x" in client.shown)
            assert "cannot be encoded" in caplog.text
            client.link.vanish()

    run(main())


def test_many_subscribers_take_several_turns_and_are_given_all() -> None:
    async def main() -> None:
        async with open_node(turn_seconds=1e-9) as node:
            clients = [await connect(node, channel="a") for _ in range(100)]
            await cast(node, "1", sender="x")
            await wait_until(lambda: all(client.offsets() == [0] for client in clients))
            await cast(node, "2", sender="x")  # the turns of the first have ended
            await wait_until(lambda: all(client.offsets() == [0, 0] for client in clients))


def test_what_is_kept_overtakes_no_push_that_takes_several_turns() -> None:
    async def main() -> None:
        async with open_node(turn_seconds=1e-9) as node:
            clients = [await connect(node, channel="a") for _ in range(100)]
            for texts in (["1"], ["1", "2"]):  # without, and with another one that waits behind it
                for client in clients:
                    client.link.sent.clear()
                await cast(node, texts[0], sender="x")
                while not any(client.shown for client in clients):  # the first step ends behind 32 of them
                    await turns()
                await cast(node, *texts[1:], sender="x")
                await publish(node, "kept")
                for _ in clients:
                    node.fanout.flush()  # as if its turns were longer
                await turns(100)
                for client in clients:
                    assert [text.split(" ")[-1] for text in client.shown] == [*texts, "kept"]

    run(main())


def test_a_direct_send_brings_it_along_before_what_is_kept() -> None:
    async def main() -> None:
        async with open_node(ephemeral_seconds=5.0) as node:
            client, other = await connect(node, channel="a"), await connect(node, channel="a")
            await cast(node, "first")  # the next one waits for a beat
            await wait_until(lambda: len(client.shown) == 2)
            await cast(node, "typing")
            await publish(node, "kept")
            node.send(client.connection, WireMessage(b"an answer"))
            await turns(2)
            assert [text.split(" ")[-1] for text in client.shown[1:]] == ["first", "typing", "kept", "answer"]
            assert [text.split(" ")[-1] for text in other.shown[1:]] == ["first", "typing", "kept"]

    run(main())


def test_what_was_held_back_is_not_given_to_one_that_has_unsubscribed() -> None:
    async def main() -> None:
        async with open_node() as node:
            client, other = await connect(node, channel="a"), await connect(node, channel="a")
            await client.subscribe("b")
            client.link.paused = True
            for channel in "ab":
                await node.publish(channel, b"x", Format.TEXT, ephemeral=True)
            await wait_until(lambda: len(node.fanout.ephemeral._held.get(client.connection, ())) == 2)
            await node.unsubscribe(client.connection, "a")
            client.link.paused = False
            node.fanout.release(client.connection)
            assert (client.offsets("a"), client.offsets("b"), other.offsets("a")) == ([], [0], [0])

    run(main())
