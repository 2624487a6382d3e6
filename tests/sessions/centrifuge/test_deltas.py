"""Deltas and filters by tags, live and in what is recovered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from engine.support import run
from sessions.centrifuge.support import JSON, PROTOBUF, Client, connect, open_sessions
from tidewire.engine.node import Node
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.fossil import apply_delta
from tidewire.protocols.centrifuge.messages import Reply
from tidewire.protocols.centrifuge.protobuf import decode_frame
from tidewire.testing import wait_until

both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])
CHANNEL = "history:a"


async def publish(node: Node, *data: Any, channel: str = CHANNEL, tags: dict[str, str] | None = None) -> None:
    meta = b"" if tags is None else msgspec.json.encode({"tags": tags})
    for item in data:
        await node.publish(channel, msgspec.json.encode(item), meta=meta)


# Deltas.


def rebuilt(client: Client, channel: str, publications: list[dict[str, Any]] | None = None) -> list[bytes]:
    """Return the publications of a JSON client with deltas, each made of the one before."""
    found: list[bytes] = []
    for pub in [*(publications or ()), *(push["pub"] for push in client.pushes("pub", channel))]:
        assert isinstance(pub["data"], str)
        data = pub["data"].encode()
        found.append(apply_delta(found[-1], data) if pub.get("delta") else data)
    return found


def test_deltas_are_full_first_and_then_patches() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            reply = await client.ask("subscribe", channel="delta:a", delta="fossil", recoverable=True)
            assert reply["delta"] is True
            whole = await connect(node, channel="delta:a")
            values = [{"text": "é" * 50, "list": list(range(50)), "n": n} for n in range(4)]
            for value in values:
                await publish(node, value, channel="delta:a")
                await asyncio.sleep(0)
            await publish(node, *values, channel="delta:a")
            await client.wait_pushes("pub", 8)
            assert [msgspec.json.decode(data) for data in rebuilt(client, "delta:a")] == values + values
            assert [push["pub"].get("delta", False) for push in client.pushes("pub")] == [False] + [True] * 7
            assert whole.data() == values + values
            late = await connect(node)
            await late.ask("subscribe", channel="delta:a", delta="fossil")
            await publish(node, values[0], values[1], channel="delta:a")
            await late.wait_pushes("pub", 2)
            assert [push["pub"].get("delta", False) for push in late.pushes("pub")] == [False, True]
            assert len(node.registry.channels["delta:a"].groups) == 2

    run(main())


def test_deltas_go_on_from_what_was_recovered() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            values = [{"text": "abc" * 50, "n": n} for n in range(5)]
            await publish(node, *values[:3], channel="delta:a")
            client = await connect(node)
            reply = await client.ask("subscribe", channel="delta:a", delta="fossil", recover=True)
            assert [pub.get("delta", False) for pub in reply["publications"]] == [False, True, True]
            await publish(node, values[3], channel="delta:a")
            await client.wait_pushes("pub")
            assert client.pushes("pub")[0]["pub"]["delta"] is True
            found = rebuilt(client, "delta:a", reply["publications"])
            assert [msgspec.json.decode(data) for data in found] == values[:4]
            await client.ask("unsubscribe", channel="delta:a")
            reply = await client.ask("subscribe", channel="delta:a", delta="fossil", recover=True, offset=4)
            assert reply["recovered"] is True
            await publish(node, values[4], channel="delta:a")
            await client.wait_pushes("pub", 2)
            assert "delta" not in client.pushes("pub")[-1]["pub"]

    run(main())


def test_deltas_are_bytes_in_protobuf() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node, protocol=PROTOBUF)
            assert (await client.ask("subscribe", channel="delta:a", delta="fossil"))["delta"] is True
            values = [b'{"text":"%b","n":%d}' % (b"abc" * 30, n) for n in range(2)]
            await node.publish("delta:a", values[0])
            await node.publish("delta:a", values[1])
            await wait_until(lambda: len(client.link.sent) == 4)
            pushes = [decode_frame(Reply, sent.data, depth=9)[0].push for sent in client.link.sent[-2:]]
            first, second = [push.pub for push in pushes if push is not None]
            assert first is not None
            assert second is not None
            assert (bytes(first.data), first.delta) == (values[0], False)
            assert second.delta
            assert apply_delta(values[0], bytes(second.data)) == values[1]

    run(main())


def test_deltas_are_silently_not_given_where_they_are_not_allowed() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            for channel in (CHANNEL, "latest:a", "plain"):
                assert "delta" not in await client.ask("subscribe", channel=channel, delta="fossil")
            client.send({"id": 50, "subscribe": {"channel": "delta:b", "delta": "other"}})
            await client.wait_closed(3501)

    run(main())


# Tags.


@both
def test_a_filter_by_tags_chooses_and_the_position_goes_on(protocol: CentrifugeProtocol) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            tree = {
                "op": "and",
                "nodes": [{"key": "n", "cmp": "gte", "val": "2"}, {"op": "not", "nodes": [{"key": "x", "cmp": "ex"}]}],
            }
            client = await connect(node, protocol=protocol)
            await client.ask("subscribe", channel="tags:a", tf=tree, recoverable=True)
            same = await connect(node, protocol=protocol)
            await same.ask("subscribe", channel="tags:a", tf=tree)
            assert len(node.registry.channels["tags:a"].groups) == 1
            await publish(node, 1, channel="tags:a", tags={"n": "1"})
            await publish(node, 2, channel="tags:a", tags={"n": "2"})
            await asyncio.sleep(0)
            await publish(node, 3, channel="tags:a", tags={"n": "10", "x": ""})
            await asyncio.sleep(0)
            await publish(node, 4, channel="tags:a", tags={"n": "10.5"})
            await client.wait_pushes("pub", 2)
            assert [(push["pub"]["data"], push["pub"]["offset"]) for push in client.pushes("pub")] == [(2, 2), (4, 4)]
            assert client.pushes("pub")[0]["pub"]["tags"] == {"n": "2"}
            await client.ask("unsubscribe", channel="tags:a")
            reply = await client.ask("subscribe", channel="tags:a", tf=tree, recover=True)
            assert [pub["data"] for pub in reply["publications"]] == [2, 4]
            await publish(node, 5, channel="tags:a", tags={"n": "1"})
            await publish(node, 6, channel="tags:a", tags={"n": "6"})
            await client.wait_pushes("pub", 3)
            assert client.data()[-1] == 6

    run(main())


def test_a_filter_has_a_limit() -> None:
    async def main() -> None:
        async with open_sessions(filter_nodes=2) as node:
            client = await connect(node)
            tree = {"op": "or", "nodes": [{"key": "n", "cmp": "ex"}] * 2}
            assert (await client.ask("subscribe", channel="tags:a", tf=tree))["error"]["code"] == 107
            assert node.statistics().limits_reached["filter_nodes"] == 1

    run(main())
