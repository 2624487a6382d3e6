"""What breaks the protocol, and how each of it ends a connection."""

from __future__ import annotations

import pytest

from engine.support import run, turns
from sessions.centrifuge.support import JSON, PROTOBUF, begin, connect, open_sessions
from tidewire.protocols.centrifuge.codes import DISCONNECTS, Malformed
from tidewire.testing import wait_until

both = pytest.mark.parametrize("protocol", [JSON, PROTOBUF], ids=["json", "protobuf"])


CONNECT = '{"id":1,"connect":{}}'
#: What is sent, behind a connect unless it says otherwise, for each way to break the protocol.
BROKEN: dict[Malformed, list[str | bytes]] = {
    Malformed.EMPTY_FRAME: [CONNECT, ""],
    Malformed.BLANK_LINE: [CONNECT, '{"id":2,"rpc":{}}\n\n{"id":3,"rpc":{}}'],
    Malformed.NOT_TEXT: [CONNECT, b"\xff{}"],
    Malformed.NOT_JSON: [CONNECT, "{"],
    Malformed.WRONG_SHAPE: [CONNECT, '{"id":-2,"rpc":{}}'],
    Malformed.TOO_DEEP: [CONNECT, '{"id":2,"rpc":{"data":%s}}' % ("[" * 70 + "]" * 70)],
    Malformed.TEXT_FRAME: [b"\x04\x08\x01\x22\x00", "{}"],
    Malformed.BAD_VARINT: [b"\x04\x08\x01\x22\x00", b"\xff" * 11],
    Malformed.TRUNCATED: [b"\x04\x08\x01\x22\x00", b"\x05\x08\x01"],
    Malformed.BAD_TAG: [b"\x04\x08\x01\x22\x00", b"\x01\x03"],
    Malformed.NO_ID: [CONNECT, '{"rpc":{}}'],
    Malformed.NO_METHOD: [CONNECT, '{"id":2,"ping":{}}'],
    Malformed.NOT_CONNECTED: ['{"id":1,"rpc":{}}'],
    Malformed.CONNECTED_TWICE: [CONNECT, '{"id":2,"connect":{}}'],
    Malformed.CONNECT_FAILED: ['{"id":1,"connect":{"token":"expired"}}', '{"id":2,"connect":{}}'],
    Malformed.NO_CHANNEL: [CONNECT, '{"id":2,"subscribe":{}}'],
    Malformed.UNKNOWN_DELTA: [CONNECT, '{"id":2,"subscribe":{"channel":"a","delta":"x"}}'],
    Malformed.UNASKED_PONG: [CONNECT, "{}"],
    Malformed.NO_CONNECT: [],
    Malformed.NOBODY_LISTENS: [CONNECT, '{"send":{"data":1}}'],
}


@pytest.mark.parametrize("kind", Malformed)
def test_what_breaks_the_protocol_ends_with_its_code(kind: Malformed) -> None:
    async def main() -> None:
        async with open_sessions(auth_seconds=0.2) as node:
            frames = BROKEN[kind]
            binary = bool(frames) and isinstance(frames[0], bytes)
            client = await begin(node, protocol=PROTOBUF if binary else JSON)
            for frame in frames:
                client.raw(frame)
                await turns(3)
            await client.wait_closed(DISCONNECTS[kind].code)
            expected = {Malformed.NO_CONNECT: 3502, Malformed.NOBODY_LISTENS: 3508}.get(kind, 3501)
            assert DISCONNECTS[kind].code == expected

    run(main())


@pytest.mark.parametrize("method", ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history"])
def test_a_channel_without_a_name_is_a_bad_request(method: str) -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.send({"id": 2, method: {}})
            await client.wait_closed(3501)

    run(main())


def test_what_comes_behind_a_bad_frame_is_not_done() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.raw("nonsense")
            client.send({"id": 9, "publish": {"channel": "history:a", "data": 1}})
            await client.wait_closed(3501)
            assert client.reply(9) is None

    run(main())


def test_null_is_as_good_as_nothing() -> None:
    async def main() -> None:
        async with open_sessions() as node:
            client = await connect(node)
            client.raw(
                '{"id":5,"subscribe":{"channel":"history:a","token":null,"recover":null,"tf":null,"delta":null}}'
            )
            client.raw('{"id":6,"publish":{"channel":"history:a","data":{"kept":null}},"rpc":null}')
            client.raw('{"id":7,"history":{"channel":"history:a","since":null,"limit":5,"reverse":null}}')
            await wait_until(lambda: client.reply(7) is not None)
            found = client.reply(7)
            assert found is not None
            assert [pub["data"] for pub in found["history"]["publications"]] == [{"kept": None}]

    run(main())
