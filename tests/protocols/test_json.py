"""The JSON protocol, and the decoding of what strangers send."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import BadRequest, CommandError
from tidewire.messages import Dropped, Format, Position, Publication, Subscribed
from tidewire.protocols.base import Protocol
from tidewire.protocols.chat import ChatProtocol
from tidewire.protocols.json import JSON, JsonProtocol, iso_time, with_fields
from tidewire.protocols.json_text import JsonDecoder

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def published(data: bytes, format_: Format = Format.JSON) -> Publication:
    return Publication("a", 1, 0, "e", 1_700_000_000.25, data, format_)


@given(values, st.booleans())
def test_what_a_client_sends_is_what_others_get(value: Any, binary: bool) -> None:
    text = json.dumps(value)
    (command,) = JSON.decode(text.encode() if binary else text)
    shown = json.loads(JSON.encode_publication(published(command.data)).data)
    if isinstance(value, dict) and "timestamp" not in value:
        assert shown.pop("timestamp") == "2023-11-14T22:13:20.250+00:00"
    if not (isinstance(value, dict) and "timestamp" in value):
        assert shown == value


@given(st.text() | st.binary())
def test_anything_is_json_or_refused(message: str | bytes) -> None:
    try:
        (command,) = JSON.decode(message)
    except CommandError:
        return
    json.loads(command.data)
    command.data.decode()


@pytest.mark.parametrize("message", ["", "{", "nonsense", b"\xff", b'"\xff"', '{"a":\ud800}', "[" * 100_000, "NaN"])
def test_what_is_no_json_is_refused(message: str | bytes) -> None:
    with pytest.raises(BadRequest):
        JSON.decode(message)


def test_a_field_is_added_to_objects_only() -> None:
    assert with_fields(b"{}", b'"a":1') == b'{"a":1}'
    assert with_fields(b'{"b":2}', b'"a":1') == b'{"b":2,"a":1}'
    assert with_fields(b"[{}]", b'"a":1') == b"[{}]"
    assert json.loads(JSON.encode_publication(published(b"[1]")).data) == [1]
    assert JSON.encode_publication(published(b"\xff", Format.BINARY)).binary


def test_white_space_around_an_object_is_no_obstacle() -> None:
    (command,) = JSON.decode(' {"a": 1} \n')
    assert list(json.loads(JSON.encode_publication(published(command.data)).data)) == ["a", "timestamp"]


def test_notices() -> None:
    assert json.loads(JSON.encode_error(BadRequest("no")).data) == {
        "type": "error",
        "code": "bad_request",
        "content": "no",
    }
    pong = JSON.encode_pong()
    assert pong is not None
    assert json.loads(pong.data) == {"type": "pong"}
    assert json.loads(JSON.encode_dropped(Dropped("a", 3)).data)["code"] == "dropped"
    assert JSON.encode_subscribed(Subscribed("a", Position(0, "e"))) == []
    assert iso_time(0) == "1970-01-01T00:00:00.000+00:00"


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"x": "a"}', "wrong shape"),
        (b"[]", "wrong shape"),
        (b'{"y": 1}', "wrong shape"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"x": 1}}', "not JSON"),
        (b"[" * 65 + b"]" * 65, "deeper than the limit of 64"),
    ],
)
def test_errors_say_what_was_expected(data: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        JsonDecoder(Point, expected="a point").decode(data)


def test_depth_counts_brackets_outside_of_strings() -> None:
    decoder = JsonDecoder(Any, expected="anything", depth=3)
    assert decoder.decode(b'["[[[[[[[[\\"{{{{{{{"]') == ['[[[[[[[["{{{{{{{']
    assert decoder.decode(b"[[[]],[[]],[[]]]") == [[[]], [[]], [[]]]
    with pytest.raises(BadRequest, match="deeper"):
        decoder.decode(b'["[",[[{}]]]')


@pytest.mark.parametrize("protocol", [JsonProtocol(json_depth=3), ChatProtocol(json_depth=3)])
def test_a_protocol_has_the_depth_that_it_was_given(protocol: Protocol[Any]) -> None:
    for message in ('{"type":"ping","x":[[1]]}', b'{"type":"ping","x":[[1]]}'):
        assert protocol.decode(message)
    with pytest.raises(BadRequest, match="deeper than the limit of 3"):
        protocol.decode('{"type":"ping","x":[[[1]]]}')
