"""Positions of a session: what a client missed, given whole or said not to be; and what the application orders."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.support import run
from sessions.centrifuge.support import JSON, PROTOBUF, Client, begin, connect, open_sessions
from tidewire.backends.checked import CheckedBroker
from tidewire.backends.memory import MemoryBroker
from tidewire.channel_options import ChannelOptions
from tidewire.engine.node import Node
from tidewire.messages import Position
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.meta import PublicationMeta
from tidewire.rules.base import Grant
from tidewire.sessions.centrifuge import session_orders
from tidewire.testing import wait_until

both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
CHANNEL = "history:a"


async def publish(node: Node, *data: Any, channel: str = CHANNEL, tags: dict[str, str] | None = None) -> None:
    meta = b"" if tags is None else msgspec.json.encode({"tags": tags})
    for item in data:
        await node.publish(channel, msgspec.json.encode(item), meta=meta)


@both
def test_a_first_subscribe_tells_the_position(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            await publish(node, 1, 2)
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel=CHANNEL, recoverable=True)
            epoch = reply.pop("epoch")
            assert epoch
            assert reply == {"recoverable": True, "positioned": True, "offset": 2}

    run(main())


@both
def test_who_does_not_ask_has_no_position_unless_it_is_forced(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, protocol=protocol)
            assert await client.ask("subscribe", channel=CHANNEL) == {}
            reply = await client.ask("subscribe", channel="history:b", positioned=True)
            assert "recoverable" not in reply
            assert reply["positioned"] is True
            assert (await client.ask("subscribe", channel="recovery:a"))["recoverable"] is True

    run(main())


@both
def test_what_was_missed_is_recovered_from_the_position_that_was_asked_for(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            await publish(node, 1, 2, 3)
            client = await connect(node, protocol=protocol)
            epoch = node.broker._epoch  # type: ignore[attr-defined]
            for since in ({"offset": 1, "epoch": epoch}, {"offset": 1}):
                reply = await client.ask("subscribe", channel=CHANNEL, recover=True, **since)
                assert (reply["was_recovering"], reply["recovered"], reply["offset"]) == (True, True, 1)
                assert [(pub["data"], pub["offset"]) for pub in reply["publications"]] == [(2, 2), (3, 3)]
                await client.ask("unsubscribe", channel=CHANNEL)
            reply = await client.ask("subscribe", channel=CHANNEL, recover=True, offset=3, epoch=epoch)
            assert reply["recovered"] is True
            assert "publications" not in reply
            await publish(node, 4)
            assert (await client.wait_pushes("pub"))[0]["pub"]["offset"] == 4

    run(main())


def test_who_is_given_the_same_is_given_it_in_the_form_that_each_asked_for() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            await connect(node, channel=CHANNEL)
            await publish(node, 1, 2, 3)
            for protocol in (JSON, PROTOBUF, JSON, PROTOBUF):
                client = await connect(node, protocol=protocol)
                for since, missed in ((1, [(2, 2), (3, 3)]), (2, [(3, 3)])):
                    reply = await client.ask("subscribe", channel=CHANNEL, recover=True, offset=since)
                    assert reply["recovered"] is True
                    assert [(pub["data"], pub["offset"]) for pub in reply["publications"]] == missed
                    await client.ask("unsubscribe", channel=CHANNEL)

    run(main())


@both
def test_recovery_from_the_beginning_leaves_the_offset_out(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            await publish(node, 1)
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel=CHANNEL, recover=True)
            assert reply["recovered"] is True
            assert "offset" not in reply
            assert [pub["data"] for pub in reply["publications"]] == [1]

    run(main())


@pytest.mark.parametrize(
    "since",
    [{"offset": 1, "epoch": "_"}, {"offset": 0, "epoch": "_"}, {"offset": 99}, {"offset": 2**63}, {"offset": 1}],
    ids=["epoch", "invalidated", "future", "huge", "trimmed"],
)
@both
def test_what_cannot_be_given_whole_is_said_not_to_be(protocol: CentrifugeProtocol, since: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            await publish(node, 1, 2, 3, 4, 5, 6, channel="small:a")
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel="small:a", recover=True, **since)
            assert reply["was_recovering"] is True
            assert "recovered" not in reply
            assert "publications" not in reply
            assert reply["offset"] == 6
            await client.ask("unsubscribe", channel="small:a")
            reply = await client.ask("subscribe", channel="small:a", recover=True, flag=2, **since)
            assert reply["error"]["code"] == 112
            await publish(node, 7, channel="small:a")
            assert client.pushes() == []
            assert "error" not in await client.ask("subscribe", channel="small:a")

    run(main())


@both
def test_what_a_reply_has_no_room_for_is_pushed_behind_it(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions(reply_bytes=300) as node:
            await publish(node, *range(8))
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel=CHANNEL, recover=True)
            assert (reply["recovered"], reply.get("offset", 0)) == (True, 0)
            first = [pub["data"] for pub in reply["publications"]]
            assert 1 < len(first) < 8
            await publish(node, 8)
            await client.wait_pushes("pub", 9 - len(first))
            assert first + client.data() == list(range(9))
            assert [push["pub"]["offset"] for push in client.pushes("pub")] == list(range(len(first) + 1, 10))

    run(main())


def test_a_client_unsubscribes_while_what_it_missed_is_pushed() -> None:
    async def main() -> None:
        async with open_sessions(reply_bytes=300) as node:
            await publish(node, *range(8))
            client = await connect(node)
            client.link.high_water = 1
            client.link.stall()
            reply = await client.ask("subscribe", channel=CHANNEL, recover=True)
            client.send({"id": 99, "unsubscribe": {"channel": CHANNEL}})
            client.link.take()
            await wait_until(lambda: client.reply(99) is not None)
            pushed = client.data()
            assert reply["publications"] + pushed
            assert not client.session.subscriptions.channels
            reply = await client.ask("subscribe", channel=CHANNEL, recover=True, offset=7)
            assert [pub["data"] for pub in reply["publications"]] == [7]
            assert client.data() == pushed

    run(main())


def test_a_channel_that_holds_a_state_gives_the_newest() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            reply = await client.ask("subscribe", channel="cache:a", recover=True)
            assert "recovered" not in reply
            await client.ask("unsubscribe", channel="cache:a")
            await publish(node, 1, 2, 3, channel="cache:a")
            reply = await client.ask("subscribe", channel="cache:a", recover=True)
            assert reply["recovered"] is True
            assert [pub["offset"] for pub in reply["publications"]] == [3]
            await client.ask("unsubscribe", channel="cache:a")
            reply = await client.ask("subscribe", channel="cache:a", recover=True, offset=3, epoch=reply["epoch"])
            assert reply["recovered"] is True
            assert "publications" not in reply

    run(main())


@both
def test_subscriptions_of_the_server_come_with_the_connect_and_recover(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            first = await connect(node, "user:ann subs:history:a,history:b", protocol=protocol)
            assert sorted(first.all[0]["connect"]["subs"]) == ["history:a", "history:b"]
            result = first.all[0]["connect"]["subs"][CHANNEL]
            assert (result["recoverable"], result["positioned"]) == (True, True)
            await publish(node, 1, 2)
            await first.wait_pushes("pub", 2)
            first.link.vanish()
            await publish(node, 3)
            again = await connect_with(
                node, protocol, subs={CHANNEL: {"recover": True, "offset": 2, "epoch": result["epoch"]}}
            )
            recovered = again.all[0]["connect"]["subs"][CHANNEL]
            assert (recovered["recovered"], recovered["offset"]) == (True, 2)
            assert [pub["data"] for pub in recovered["publications"]] == [3]
            await publish(node, 4)
            assert (await again.wait_pushes("pub"))[0]["pub"]["offset"] == 4
            assert (await again.ask("subscribe", channel=CHANNEL))["error"]["code"] == 105

    run(main())


async def connect_with(node: Node, protocol: CentrifugeProtocol, **request: Any) -> Client:
    client = await begin(node, protocol=protocol)
    await client.ask("connect", token="user:ann subs:history:a", **request)
    return client


# Gaps on live connections.


def test_a_gap_that_cannot_be_filled_ends_the_subscription_or_the_connection() -> None:
    async def main() -> None:
        async with open_sessions(gap_messages=1) as node:
            positioned, careless = await connect(node), await connect(node, channel=CHANNEL)
            await positioned.ask("subscribe", channel=CHANNEL, recoverable=True)
            given = await connect(node, "user:ann subs:history:a")
            await publish(node, 1)
            await careless.wait_pushes("pub")
            channel = node.registry.channels[CHANNEL]
            channel.position = Position(7, channel.position.epoch)
            node.fanout.tell_insufficient(channel)
            assert positioned.pushes("unsubscribe") == [
                {"channel": CHANNEL, "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
            ]
            assert await given.wait_closed(3010) == "insufficient state"
            assert careless.pushes("unsubscribe") == []
            assert "error" not in await positioned.ask("subscribe", channel=CHANNEL, recoverable=True)

    run(main())


def test_a_gap_while_the_reply_waits_for_the_client_is_told_behind_it() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.link.stall()
            await publish(node, "x" * 100_000)
            client.send({"id": 7, "subscribe": {"channel": CHANNEL, "recover": True}})
            await wait_until(lambda: client.link.paused)
            channel = node.registry.channels[CHANNEL]
            channel.position = Position(7, channel.position.epoch)
            node.fanout.tell_insufficient(channel)
            client.link.take()
            await client.wait_pushes("unsubscribe")
            assert client.all[-2]["id"] == 7
            assert CHANNEL not in node.registry.subscriptions(client.connection)
            assert not len(channel)

    run(main())


# By order of the application.


@both
def test_the_application_subscribes_and_unsubscribes_users(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            ann, tab = (
                await connect(node, "user:ann", protocol=protocol),
                await connect(node, "user:ann", protocol=protocol),
            )
            bob = await connect(node, "user:bob", protocol=protocol)
            await publish(node, 1, 2)
            grant = Grant(ChannelOptions(), data=b'{"hi":1}')
            await session_orders.subscribe(node, "ann", CHANNEL, grant, since=Position(1, ""))
            for device in (ann, tab):
                [told] = await device.wait_pushes("subscribe")
                assert told["channel"] == CHANNEL
                assert told["subscribe"]["data"] == {"hi": 1}
                assert (await device.wait_pushes("pub"))[0]["pub"]["data"] == 2
            await publish(node, 3)
            await ann.wait_pushes("pub", 2)
            await session_orders.unsubscribe(node, "ann", CHANNEL, client=tab.connection.id)
            [told] = await tab.wait_pushes("unsubscribe")
            assert told == {"channel": CHANNEL, "unsubscribe": {"code": 2000, "reason": "server unsubscribe"}}
            assert ann.pushes("unsubscribe") == []
            assert bob.pushes() == []
            await session_orders.unsubscribe(node, "ann", "", code=2100, reason="enough")
            assert (await ann.wait_pushes("unsubscribe"))[0]["unsubscribe"]["code"] == 2100

    run(main())


def test_the_application_disconnects_users() -> None:
    async def main() -> None:
        users = ("ann", "ann", "bob", "")
        async with open_sessions() as node:
            ann, spared, bob, nobody = [await connect(node, f"user:{name}" if name else "") for name in users]
            session = await connect(node, "user:ann", emulated=True)
            await session_orders.disconnect(node, "ann", session=session.session.secret)
            await session.wait_closed(3503)
            await session_orders.disconnect(node, "ann", whitelist=[spared.connection.id])
            assert await ann.wait_closed(3503) == "force disconnect"
            await session_orders.disconnect(node, "", client=nobody.connection.id)
            await nobody.wait_closed(3503)
            await session_orders.disconnect(node, "nobody-there")
            await session_orders.disconnect(node, "ann", client=bob.connection.id)
            assert await bob.ask("rpc", method="who") == {"data": {"user": "bob", "client": bob.connection.id}}
            assert spared.link.closed_with is None

    run(main())


@both
def test_what_skips_history_is_pushed_and_never_shown_again(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel=CHANNEL, protocol=protocol)
            await publish(node, 1)
            meta = PublicationMeta(tags={"t": "1"}, skip_history=True).encode()
            await node.publish(CHANNEL, b"2", meta=meta)
            await publish(node, 3)
            await client.wait_pushes("pub", 3)
            assert client.data() == [1, 2, 3]
            assert client.pushes("pub")[1]["pub"] == {"data": 2, "offset": 2, "tags": {"t": "1"}}
            found = await client.ask("history", channel=CHANNEL, limit=-1)
            assert [pub["data"] for pub in found["publications"]] == [1, 3]
            late = await connect(node, protocol=protocol)
            reply = await late.ask("subscribe", channel=CHANNEL, recover=True, offset=1)
            assert reply["recovered"] is True
            assert [pub["data"] for pub in reply["publications"]] == [3]

    run(main())


def test_what_a_connect_has_no_room_for_is_pushed_behind_it() -> None:
    async def main() -> None:
        async with open_sessions(reply_bytes=1_000) as node:
            for name in ("a", "b", "c"):
                await node.publish(f"history:{name}", msgspec.json.encode("x" * 600))
            client = await begin(node)
            channels = [f"history:{name}" for name in ("a", "b", "c")]
            subs = {channel: {"recover": True, "offset": 0} for channel in channels}
            reply = await client.ask("connect", token="user:ann subs:" + ",".join(channels), subs=subs)
            subs = [reply["subs"][channel] for channel in channels]
            assert [sub["recovered"] for sub in subs] == [True] * 3
            assert [len(sub.get("publications", [])) for sub in subs] == [1, 1, 0]
            assert (await client.wait_pushes("pub"))[0]["channel"] == "history:c"

    run(main())


@both
def test_an_epoch_that_no_store_takes_is_unknown(
    protocol: CentrifugeProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    """Any client could fill the log with tracebacks by it."""

    async def main() -> None:
        async with open_sessions(CheckedBroker(MemoryBroker())) as node:
            await publish(node, 1, 2)
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel=CHANNEL, recover=True, offset=1, epoch="\0")
            assert (reply["was_recovering"], reply.get("recovered", False), reply["offset"]) == (True, False, 2)
            assert [record.message for record in caplog.records if record.exc_info] == []

    run(main())
