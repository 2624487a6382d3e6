"""What nobody keeps, as clients of the Centrifuge protocol and callers of the HTTP API see it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from engine.support import run
from sessions.centrifuge.support import JSON, PROTOBUF, connect, open_sessions
from sessions.centrifuge.test_deltas import publish, rebuilt
from tidewire.errors import BadRequest
from tidewire.http_api import models as m
from tidewire.http_api.publish import Publishing
from tidewire.messages import Position
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol

both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])


@both
def test_a_client_publishes_in_a_channel_that_keeps_nothing(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            reader = await connect(node, channel="gone:a", protocol=protocol)
            writer = await connect(node, "user:ann", channel="gone:a", protocol=protocol)
            assert await writer.ask("publish", channel="gone:a", data={"x": 1}) == {}
            (push,) = await reader.wait_pushes("pub")
            assert push["pub"]["data"] == {"x": 1}
            assert push["pub"]["info"]["user"] == "ann"
            assert not push["pub"].get("offset")
            top = (await node.broker.history("gone:a")).top
            assert top.offset == 0

    run(main())


@both
def test_between_kept_ones_it_moves_no_position(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, protocol=protocol)
            reply = await client.ask("subscribe", channel="history:a", positioned=True, recoverable=True)
            for n in range(3):
                await publish(node, {"n": n})
                await node.publish("history:a", b'{"typing":true}', ephemeral=True)
            await client.wait_pushes("pub", 6)
            await publish(node, {"n": 3})
            await client.wait_pushes("pub", 7)
            offsets = [push["pub"].get("offset", 0) for push in client.pushes("pub")]
            assert [offset for offset in offsets if offset] == [1, 2, 3, 4]
            late = await connect(node, protocol=protocol)
            since: dict[str, Any] = {"recover": True, "epoch": reply.get("epoch", ""), "offset": 0}
            found = await late.ask("subscribe", channel="history:a", positioned=True, recoverable=True, **since)
            assert [one["data"] for one in found["publications"]] == [{"n": n} for n in range(4)]
            assert found["recovered"]

    run(main())


@pytest.mark.parametrize("leaves_out", [False, True])
def test_differences_stay_right_between_what_nobody_keeps_or_is_not_for_all(leaves_out: bool) -> None:
    async def main() -> None:
        async with open_sessions(turn_seconds=0.0) as node:
            client = await connect(node)
            await client.ask("subscribe", channel="delta:a", delta="fossil", recoverable=True)
            shown: list[Any] = []
            for n in range(12):
                value = {"text": "é" * 50, "list": list(range(50)), "n": n}
                is_other = n % 3 == 1
                meta = msgspec.json.encode({"but_not": client.connection.id}) if is_other and leaves_out else b""
                await node.publish(
                    "delta:a", msgspec.json.encode(value), meta=meta, ephemeral=is_other and not leaves_out
                )
                if not meta:
                    shown.append(value)
                await asyncio.sleep(0.02 if n % 2 else 0)
            await client.wait_pushes("pub", len(shown))
            seen = [msgspec.json.decode(data) for data in rebuilt(client, "delta:a")]
            assert sorted(seen, key=lambda value: value["n"]) == shown
            assert any(push["pub"].get("delta") for push in client.pushes("pub"))

    run(main())


@pytest.mark.parametrize("leaves_out", [False, True])
def test_a_late_client_does_not_make_a_base_of_what_another_has_not(leaves_out: bool) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            values = [{"text": "é" * 50, "list": list(range(50)), "n": n} for n in range(4)]
            client = await connect(node)
            await client.ask("subscribe", channel="delta:a", delta="fossil", recoverable=True)
            await publish(node, *values[:2], channel="delta:a")
            await client.wait_pushes("pub", 2)
            if leaves_out:
                meta = msgspec.json.encode({"but_not": client.connection.id})
                await node.publish("delta:a", msgspec.json.encode(values[2]), meta=meta)
            else:
                await node.publish("delta:a", msgspec.json.encode("typing"), ephemeral=True)
                await client.wait_pushes("pub", 3)
            late = await connect(node)
            found = await late.ask(
                "subscribe", channel="delta:a", delta="fossil", recoverable=True, recover=True, epoch="", offset=0
            )
            await publish(node, values[3], channel="delta:a")
            await client.wait_pushes("pub", 3 if leaves_out else 4)
            seen = [msgspec.json.decode(data) for data in rebuilt(client, "delta:a")]
            assert seen == [*values[:2], *([] if leaves_out else ["typing"]), values[3]]
            await late.wait_pushes("pub", 1)
            assert msgspec.json.decode(rebuilt(late, "delta:a", found["publications"])[-1]) == values[3]

    run(main())


def test_differences_begin_behind_a_text_that_was_given_as_one() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            first = await connect(node)
            await first.ask("subscribe", channel="delta:a", delta="fossil", recoverable=True)
            for at, text in ((0, "a" * 80), (80, "b" * 80), (160, "c" * 80)):
                await publish(node, {"stream": "s", "text": text, "at": at}, channel="delta:a")
            late = await connect(node)
            found = await late.ask(
                "subscribe", channel="delta:a", delta="fossil", recoverable=True, recover=True, epoch="", offset=0
            )
            assert len(found["publications"]) == 1
            last = {"stream": "s", "text": "c" * 79 + "d", "at": 240}
            await publish(node, last, channel="delta:a")
            for client, given in ((first, []), (late, found["publications"])):
                await client.wait_pushes("pub", 1 if given else 4)
                assert msgspec.json.decode(rebuilt(client, "delta:a", given)[-1]) == last

    run(main())


def test_a_client_that_is_left_out_gets_nothing_and_is_not_named() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            sender, other = await connect(node, channel="history:a"), await connect(node, channel="history:a")
            publishing = Publishing(node, lambda channel: node.options.of(channel))
            for ephemeral in (True, False):
                request = m.PublishRequest.parse(
                    msgspec.json.encode(
                        {"channel": "history:a", "data": {}, "ephemeral": ephemeral, "but_not": sender.connection.id}
                    )
                )
                result = await publishing.publish("history:a", request)
                assert bool(result.offset) is not ephemeral
            await other.wait_pushes("pub", 2)
            await publish(node, "end")
            await sender.wait_pushes("pub", 1)
            assert sender.data() == ["end"]
            assert b"but_not" not in b"".join(message.data for message in other.link.sent)

    run(main())


def test_the_api_keeps_nothing_in_a_channel_that_keeps_nothing() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, channel="gone:a")
            publishing = Publishing(node, lambda channel: node.options.of(channel))
            assert await publishing.publish("gone:a", m.PublishRequest.parse(b'{"channel":"gone:a","data":1}')) == (
                m.PublishResult()
            )
            await client.wait_pushes("pub")
            kept = m.PublishRequest.parse(b'{"channel":"gone:a","data":2,"ephemeral":false}')
            assert (await publishing.publish("gone:a", kept)).offset == 1
            with pytest.raises(BadRequest, match="needs a publication that is kept"):
                await publishing.publish(
                    "gone:a", m.PublishRequest.parse(b'{"channel":"gone:a","data":1,"idempotency_key":"k"}')
                )
            assert (await node.broker.history("gone:a", since=Position(0, ""))).top.offset == 1

    run(main())
