"""The recoverable protocol: a client that keeps the newest position that it was given never misses a publication."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI, WebSocket

from tidewire import RECOVERABLE, Hub
from tidewire.errors import RateLimited
from tidewire.messages import Dropped, EphemeralPublication, Format, Position, Publication, Subscribed, WireMessage
from tidewire.testing import Realtime


def frame(message: WireMessage) -> object:
    assert not message.binary
    return json.loads(message.data)


def publication(data: bytes, format: Format, offset: int = 7) -> Publication:
    return Publication("a:b", offset, 0, "é:1", 0.0, data, format)


@pytest.mark.parametrize(
    ("data", "format", "shown"),
    [
        (b'{"a": [1, null]}', Format.JSON, {"a": [1, None]}),
        ('sag "ü"\n'.encode(), Format.TEXT, 'sag "ü"\n'),
        (b"\xff", Format.TEXT, "\ufffd"),
        (b"\x00\xff", Format.BINARY, "AP8="),
    ],
    ids=["json", "text", "broken", "bytes"],
)
def test_every_format_is_json_with_a_position(data: bytes, format: Format, shown: object) -> None:
    one = publication(data, format)
    sent = frame(RECOVERABLE.encode_publication(one))
    assert sent == {"channel": "a:b", "data": shown, "position": str(one.position)}
    assert Position.parse(str(one.position)) == one.position


def test_a_publication_that_is_not_kept_has_no_position() -> None:
    one = EphemeralPublication("a", 0, 0, "", 0.0, b"1", Format.JSON)
    assert frame(RECOVERABLE.encode_publication(one)) == {"channel": "a", "data": 1}


def test_the_position_of_the_answer_is_in_front_of_what_comes_behind_it() -> None:
    top = Position(9, "e")
    assert [frame(one) for one in RECOVERABLE.encode_subscribed(Subscribed("a", top, recovered=True))] == [
        {"channel": "a", "recovered": True, "position": "e:9"}
    ]
    first, second = RECOVERABLE.encode_subscribed(Subscribed("a", top, (publication(b"1", Format.JSON),)))
    assert frame(first) == {"channel": "a", "recovered": False, "position": "%C3%A9%3A1:0"}
    assert frame(second) == {"channel": "a:b", "data": 1, "position": "%C3%A9%3A1:7"}
    (state,) = RECOVERABLE.encode_subscribed(Subscribed("a", top, state={"n": 1}))
    assert frame(state) == {"channel": "a", "recovered": False, "position": "e:9", "state": {"n": 1}}


def test_notices() -> None:
    assert frame(RECOVERABLE.encode_error(RateLimited("slow down"))) == {"error": "rate_limited", "detail": "slow down"}
    assert frame(RECOVERABLE.encode_dropped(Dropped("a", 7))) == {"channel": "a", "dropped": 7}


def test_a_client_that_was_cut_gets_exactly_what_it_missed(realtime: Realtime) -> None:
    hub = Hub()
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/ws/{name}")
    async def chat(websocket: WebSocket, name: str, since: str = "") -> None:
        async with hub.connect(websocket, user=name, protocol=RECOVERABLE) as connection:
            await connection.subscribe("lobby", since=since or None, history=2)
            async for text in connection.iter_text():
                await connection.publish("lobby", text)

    with realtime(app, workers=2) as rt:
        ann, bob = rt.connect("/ws/ann"), rt.connect("/ws/bob")
        first = bob.expect({"channel": "lobby", "recovered": False, ...: ...})
        position = first["position"]
        for number in range(3):
            if number:
                bob.cut()
            ann.send(f"one {number}")
            ann.send(f"two {number}")
            if number:
                bob.back(params={"since": position})
                assert bob.expect() == {"channel": "lobby", "recovered": True, "position": position}
            assert bob.expect()["data"] == f"one {number}"
            last = bob.expect()
            assert last["data"] == f"two {number}"
            position = last["position"]
            bob.expect_nothing()
        bob.cut()
        bob.back(params={"since": position})
        assert bob.expect() == {"channel": "lobby", "recovered": True, "position": position}
        for lost in ("nonsense", "other:1"):
            bob.back(params={"since": lost})
            answer = bob.expect()
            assert (answer["channel"], answer["recovered"]) == ("lobby", False)
            assert [bob.expect()["data"], bob.expect()["data"]] == ["one 2", "two 2"]
            bob.expect_nothing()
            bob.back(params={"since": answer["position"]})  # as if it had been cut right behind the answer
            assert bob.expect() == {**answer, "recovered": True}
            assert [bob.expect()["data"], bob.expect()["data"]] == ["one 2", "two 2"]
            bob.expect_nothing()
