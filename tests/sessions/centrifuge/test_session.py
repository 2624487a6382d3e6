"""Every command of a session, in both encodings, over a real node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.support import run
from sessions.centrifuge.authority import WordAuthority
from sessions.centrifuge.support import JSON, PROTOBUF, begin, connect, names, open_sessions
from tidewire.errors import Disconnect
from tidewire.messages import Format
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.testing import FakeLink, wait_until

both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])


@both
def test_connect_says_who_the_client_is(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node, protocol=protocol)
            reply = await client.ask("connect", token="user:ann ttl:60")
            assert reply["client"] == client.connection.id
            assert reply["version"].startswith("tidewire ")
            assert (reply["expires"], reply["ttl"]) == (True, 60)
            assert (reply["ping"], reply["pong"]) == (25, True)
            assert "session" not in reply
            assert client.session.user == "ann"
            assert list(node.registry.users) == ["ann"]

    run(main())


@both
def test_publish_reaches_subscribers_behind_their_reply_with_who_published(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            ann = await connect(node, 'user:ann info:{"n":1}', channel="history:a", protocol=protocol)
            bob = await connect(node, "user:bob", protocol=protocol)
            assert await bob.ask("publish", channel="history:a", data={"text": "hé"}) == {}
            [push] = await ann.wait_pushes("pub")
            assert push["channel"] == "history:a"
            info = {"user": "bob", "client": bob.connection.id}
            assert push["pub"] == {"data": {"text": "hé"}, "offset": 1, "info": info}
            await ann.ask("publish", channel="history:a", data=[1])
            assert (await ann.wait_pushes("pub", 2))[1]["pub"]["info"]["conn_info"] == {"n": 1}

    run(main())


@both
def test_a_channel_without_history_shows_no_offsets(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            ann = await connect(node, protocol=protocol)
            assert await ann.ask("subscribe", channel="plain", recoverable=True, positioned=True) == {}
            await ann.ask("publish", channel="plain", data=1)
            [push] = await ann.wait_pushes("pub")
            assert "offset" not in push["pub"]
            assert (await ann.ask("history", channel="plain"))["error"]["code"] == 108

    run(main())


@both
def test_commands_of_one_frame_are_done_in_their_order(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node, protocol=protocol)
            commands: list[dict[str, Any]] = [{"id": 1, "connect": {}}]
            commands += [{"id": n, "subscribe": {"channel": f"history:{n}"}} for n in range(2, 12)]
            commands += [
                {"id": 12, "publish": {"channel": "history:2", "data": 1}},
                {"id": 13, "rpc": {"method": "who"}},
            ]
            client.send(*commands)
            await client.wait_pushes("pub")
            await wait_until(lambda: client.reply(13) is not None)
            assert [message["id"] for message in client.all if "id" in message] == list(range(1, 14))

    run(main())


@both
def test_a_connect_that_fails_stops_its_frame_and_ends_with_the_next(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node, protocol=protocol)
            client.send({"id": 1, "connect": {"token": "expired"}}, {"id": 2, "subscribe": {"channel": "history:a"}})
            await asyncio.sleep(0.01)
            assert client.all == [{"id": 1, "error": {"code": 109, "message": "token expired"}}]
            assert client.link.closed_with is None
            client.send({"id": 3, "rpc": {"method": "echo"}})
            assert await client.wait_closed(3501) == "bad request"

    run(main())


def test_a_bad_token_ends_the_connection() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await begin(node)
            client.send({"id": 1, "connect": {"token": "bad"}}, {"id": 2, "rpc": {}})
            await client.wait_closed(3500)
            assert client.all == []

    run(main())


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"subscribe": {"channel": "nowhere:a"}}, 102),
        ({"subscribe": {"channel": "forbidden"}}, 103),
        ({"subscribe": {"channel": "followed"}}, 105),
        ({"subscribe": {"channel": "x" * 256}}, 107),
        ({"subscribe": {"channel": "a\u0007"}}, 107),
        ({"subscribe": {"channel": "refused"}}, 1234),
        ({"subscribe": {"channel": "a", "token": "expired"}}, 109),
        ({"subscribe": {"channel": "a", "token": "ttl:-1"}}, 109),
        ({"subscribe": {"channel": "a", "type": 1}}, 108),
        ({"subscribe": {"channel": "a", "tf": {"key": "k", "cmp": "ex"}}}, 107),
        ({"subscribe": {"channel": "tags:a", "tf": {"key": "k", "cmp": "huh"}}}, 107),
        ({"subscribe": {"channel": "tags:a", "tf": {"op": "not"}}}, 107),
        ({"subscribe": {"channel": "$control"}}, 103),
        ({"subscribe": {"channel": "$user:bob"}}, 103),
        ({"publish": {"channel": "nowhere:a", "data": 1}}, 102),
        ({"publish": {"channel": "quiet", "data": 1}}, 103),
        ({"publish": {"channel": "a"}}, 107),
        ({"presence": {"channel": "a"}}, 108),
        ({"presence_stats": {"channel": "a"}}, 108),
        ({"presence": {"channel": "nowhere:a"}}, 102),
        ({"history": {"channel": "a"}}, 108),
        ({"history": {"channel": "history:a", "reverse": True, "since": {}}}, 107),
        ({"history": {"channel": "history:a", "since": {"epoch": "other"}}}, 112),
        ({"rpc": {"method": "unknown"}}, 104),
        ({"rpc": {"method": "bad"}}, 107),
        ({"sub_refresh": {"channel": "a", "token": "ttl:60"}}, 103),
    ],
)
@both
def test_errors_that_answer_a_command(protocol: CentrifugeProtocol, request_: dict[str, Any], code: int) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel="followed", protocol=protocol)
            [(method, request)] = request_.items()
            error = (await client.ask(method, **request))["error"]
            assert error["code"] == code
            assert error["message"]
            assert (await client.ask("rpc", method="echo", data=1)) == {"data": 1}

    run(main())


def test_one_channel_too_many() -> None:
    async def main() -> None:
        async with open_sessions(channels=2) as node:
            client = await connect(node, "user:ann", channel="presence:a")
            assert "error" not in await client.ask("subscribe", channel="b")
            assert (await client.ask("subscribe", channel="c"))["error"]["code"] == 106
            assert node.statistics().limits_reached["channels"] == 1

    run(main())


@both
def test_unsubscribe_is_idempotent_and_ends_pushes(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel="history:a", protocol=protocol)
            assert await client.ask("unsubscribe", channel="history:a") == {}
            assert await client.ask("unsubscribe", channel="history:a") == {}
            await client.ask("publish", channel="history:a", data=1)
            assert client.pushes() == []
            assert "error" not in await client.ask("subscribe", channel="history:a")

    run(main())


@both
def test_history(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions(history_messages=4) as node:
            client = await connect(node, protocol=protocol)
            empty = await client.ask("history", channel="history:a", limit=10)
            assert (empty["publications"], empty["offset"]) == ([], 0)
            for number in range(1, 7):
                await client.ask("publish", channel="history:a", data=number)
            top = await client.ask("history", channel="history:a")
            assert (top["publications"], top["offset"]) == ([], 6)

            async def offsets(**request: Any) -> list[int]:
                found = await client.ask("history", channel="history:a", **request)
                return [publication["offset"] for publication in found["publications"]]

            assert await offsets(limit=2) == [1, 2]
            assert await offsets(limit=2, since={"offset": 3}) == [4, 5]
            assert await offsets(limit=2, since={"offset": 3, "epoch": top["epoch"]}, reverse=True) == [2, 1]
            assert await offsets(limit=3, reverse=True) == [6, 5, 4]
            assert await offsets(limit=-1) == [1, 2, 3, 4]
            assert await offsets(limit=99, since={"offset": 2**60}) == []

    run(main())


@both
def test_presence_tells_connections_and_counts_users(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            ann = await connect(node, 'user:ann info:{"a":1}', protocol=protocol)
            assert "error" not in await ann.ask("subscribe", channel="presence:a", token='info:{"s":2}')
            tab = await connect(node, "user:ann", channel="presence:a", protocol=protocol)
            nobody = await connect(node, channel="presence:a", protocol=protocol)
            found = (await ann.ask("presence", channel="presence:a"))["presence"]
            assert found == {
                ann.connection.id: {
                    "user": "ann",
                    "client": ann.connection.id,
                    "conn_info": {"a": 1},
                    "chan_info": {"s": 2},
                },
                tab.connection.id: {"user": "ann", "client": tab.connection.id},
                nobody.connection.id: {"user": "", "client": nobody.connection.id},
            }
            stats = await ann.ask("presence_stats", channel="presence:a")
            assert stats == {"num_clients": 3, "num_users": 2}
            tab.link.vanish()
            await tab.wait_gone()
            assert (await ann.ask("presence_stats", channel="presence:a"))["num_clients"] == 2

    run(main())


@both
def test_joins_and_leaves_are_told_to_who_wants_them(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            ann = await connect(node, "user:ann", channel="recovery:a", protocol=protocol)
            assert names(await ann.wait_pushes("join")) == ["join"]
            assert ann.pushes("join")[0]["join"]["info"] == {"user": "ann", "client": ann.connection.id}
            bob = await connect(node, "user:bob", channel="recovery:a", protocol=protocol)
            await ann.wait_pushes("join", 2)
            await bob.wait_pushes("join")
            assert [push["join"]["info"]["user"] for push in bob.pushes("join")] == ["bob"]
            await bob.ask("unsubscribe", channel="recovery:a")
            [leave] = await ann.wait_pushes("leave")
            assert leave == {"channel": "recovery:a", "leave": {"info": {"user": "bob", "client": bob.connection.id}}}
            assert bob.pushes("leave") == []
            await bob.ask("subscribe", channel="recovery:a")
            await ann.wait_pushes("join", 3)
            bob.link.vanish()
            await ann.wait_pushes("leave", 2)
            assert "offset" not in str(ann.pushes("leave"))
            assert node.registry.channels["recovery:a"].position.offset == 0

    run(main())


def test_each_connection_of_a_user_joins_and_leaves_and_none_of_it_is_history() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            watcher = await connect(node, "user:bob", channel="recovery:a")
            tabs = [await connect(node, "user:ann", channel="recovery:a") for _ in range(2)]
            await watcher.wait_pushes("join", 3)
            for number, tab in enumerate(tabs, 1):
                tab.link.vanish()
                await watcher.wait_pushes("leave", number)
            left = [push["leave"]["info"]["client"] for push in watcher.pushes("leave")]
            assert left == [tab.connection.id for tab in tabs]
            assert not (await node.broker.history("$events:recovery:a")).publications

    run(main())


def test_joins_are_not_told_to_who_does_not_ask() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            quiet = await connect(node, channel="presence:a")
            asks = await connect(node)
            await asks.ask("subscribe", channel="presence:a", join_leave=True)
            await asks.wait_pushes("join")
            await connect(node, channel="presence:a")
            await asks.wait_pushes("join", 2)
            assert quiet.pushes() == []

    run(main())


@both
def test_rpc_and_send(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            authority = WordAuthority()
            client = await begin(node, authority, protocol=protocol)
            await client.ask("connect", token="user:ann")
            assert await client.ask("rpc", method="echo", data={"a": 1.50}) == {"data": {"a": 1.5}}
            assert await client.ask("rpc", method="echo") == {}
            authority.has_listener = True
            client.send({"send": {"data": [1]}}, {"id": 9, "rpc": {"method": "who"}})
            await client.ask("rpc", method="echo")
            assert authority.received == [b"[1]"]
            authority.has_listener = False
            client.send({"send": {"data": 1}})
            await client.wait_closed(3508)

    run(main())


def test_payloads_pass_through_untouched() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel="history:a")
            texts = ["1.0", "1e400", '{"a":1,"a":2}', '"\\u00e9\\/"', "[1, 2 ,3]", "12345678901234567890123"]
            for number, text in enumerate(texts, 100):
                client.raw(f'{{"id":{number},"publish":{{"channel":"history:a","data":{text}}}}}')

            def pushes() -> list[bytes]:
                return [data for data in client.link.data if b'"pub"' in data]

            await wait_until(lambda: len(pushes()) == len(texts))
            pushed = pushes()
            for text, message in zip(texts, pushed, strict=True):
                assert b'"data":' + text.encode() in message

    run(main())


def test_what_applications_publish_reaches_both_encodings() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            json = await connect(node, channel="history:a")
            binary = await connect(node, channel="history:a", protocol=PROTOBUF)
            await node.publish("history:a", b'{\n "a": 1\r\n}')
            await node.publish("history:a", "plain é".encode(), Format.TEXT)
            await node.publish("history:a", b"\x00\xff", Format.BINARY)
            await json.wait_pushes("pub", 3)
            assert json.data() == [{"a": 1}, "plain é", "AP8="]
            assert not any(b"\n" in message.data for message in json.link.sent)
            assert b"\x00\xff" in binary.link.sent[-1].data
            assert "plain é".encode() in binary.link.sent[-2].data

    run(main())


def test_what_a_protobuf_client_publishes_is_json_where_it_can_be() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            json = await connect(node, channel="history:a")
            binary = await connect(node, channel="history:a", protocol=PROTOBUF)
            await binary.ask("publish", channel="history:a", data={"a": 1})
            binary.raw(b"\x14\x08\x05\x3a\x10\x0a\x09history:a\x12\x03\xff\x00a")
            await json.wait_pushes("pub", 2)
            assert json.data() == [{"a": 1}, "/wBh"]

    run(main())


def test_messages_for_a_user_or_everybody_are_told_as_messages() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, "user:ann")
            await node.publish("$user:ann", b'{"hello":1}')
            [push] = await client.wait_pushes("message")
            assert push == {"message": {"data": {"hello": 1}}}

    run(main())


@pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
@pytest.mark.parametrize("name", ["ü", "می‌خواهم", "👩‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "रक्‍षा", "样本"])
def test_a_channel_has_a_name_of_any_script(protocol: CentrifugeProtocol, name: str) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            channel = f"history:{name}"
            client = await connect(node, channel=channel, protocol=protocol)
            await node.publish(channel, b"1")
            await wait_until(lambda: client.data(channel) == [1])
            assert await client.ask("publish", channel=channel, data=2) == {}
            assert len((await client.ask("history", channel=channel, limit=-1))["publications"]) == 2

    run(main())


def test_an_end_with_3000_is_told_without_a_code() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.session.kick(Disconnect(3000, "connection closed"))
            await wait_until(lambda: client.connection.disconnect is not None)
            assert client.link.closed_with is None

    run(main())


def test_replies_go_out_when_the_commands_are_done_unless_a_push_takes_them_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(FakeLink, "flush", lambda link: flushed.append(len(link.sent)))

    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel="history:a")
            flushed.clear()
            client.send({"id": 8, "unsubscribe": {"channel": "a"}}, {"id": 9, "unsubscribe": {"channel": "b"}})
            await wait_until(lambda: flushed)
            assert flushed == [len(client.link.sent)]
            flushed.clear()
            client.send({"id": 10, "unsubscribe": {"channel": "c"}})
            await node.publish("history:a", b"1")
            await client.wait_pushes("pub")
            assert client.reply(10) == {"unsubscribe": {}}
            assert not flushed

    run(main())
