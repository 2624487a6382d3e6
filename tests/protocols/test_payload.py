"""What an application may publish or send."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tidewire.errors import BadRequest
from tidewire.messages import Announcement, Format, WireMessage
from tidewire.protocols.centrifuge.codes import MalformedFrame
from tidewire.protocols.centrifuge.encoding import CentrifugeJson
from tidewire.protocols.json_text import JsonDecoder, has_huge_number
from tidewire.protocols.message_shape import checked_announcement
from tidewire.protocols.payload import encode_json, encode_message, encode_payload


class Model(BaseModel):
    when: datetime
    count: int = 3


class Struct(msgspec.Struct):
    name: str


@dataclasses.dataclass
class Data:
    values: list[int]


class Color(enum.Enum):
    RED = "red"


def test_each_kind_has_its_format() -> None:
    assert encode_payload("é") == ("é".encode(), Format.TEXT)
    assert encode_payload(b"\xff") == (b"\xff", Format.BINARY)
    assert encode_payload(bytearray(b"x")) == (b"x", Format.BINARY)
    assert encode_payload(memoryview(b"x")) == (b"x", Format.BINARY)
    assert encode_payload({"a": 1}) == (b'{"a":1}', Format.JSON)
    assert encode_payload(None) == (b"null", Format.JSON)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Model(when=datetime(2026, 1, 2, tzinfo=UTC)), {"when": "2026-01-02T00:00:00Z", "count": 3}),
        (Struct("x"), {"name": "x"}),
        (Data([1, 2]), {"values": [1, 2]}),
        ({"color": Color.RED}, {"color": "red"}),
        ([1.5, True, None, "é"], [1.5, True, None, "é"]),
    ],
)
def test_json(value: Any, expected: Any) -> None:
    assert json.loads(encode_json(value)) == expected


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [object(), {"a": object()}, cycle(), "\ud800", {"k": "\ud800"}, {(1, 2): 3}])
def test_what_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        encode_payload(value)


texts = st.text(st.characters(exclude_categories=["Cs"]))
plain_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts


@given(st.recursive(plain_values, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_json_round_trip(value: Any) -> None:
    assert json.loads(encode_json(value)) == value


def test_announcements_and_messages() -> None:
    assert checked_announcement(None, None) is None
    assert checked_announcement(None, "bye") == Announcement(b"bye", Format.TEXT)
    assert encode_message("hi") == WireMessage(b"hi")
    assert encode_message(b"hi") == WireMessage(b"hi", binary=True)
    assert encode_message([1]) == WireMessage(b"[1]")


def test_models_may_stand_inside_of_other_values() -> None:
    model = Model(when=datetime(2026, 1, 2, tzinfo=UTC))
    expected = {"when": "2026-01-02T00:00:00Z", "count": 3}
    assert json.loads(encode_json([model])) == [expected]
    assert json.loads(encode_json({"user": {"who": model}})) == {"user": {"who": expected}}


def test_a_model_that_json_cannot_carry_is_refused() -> None:
    class Strange(BaseModel):
        value: Any

    for value in (Strange(value=object()), [Strange(value=object())], {"a": object()}):
        with pytest.raises(BadRequest, match="cannot be sent as JSON"):
            encode_json(value)


@pytest.mark.parametrize("digits", [309, 310, 5_000])
def test_a_number_that_not_every_program_can_read_is_refused(digits: int) -> None:
    text = b'{"a": "' + b"9" * 400 + b'", "n": -' + b"7" * digits + b"}"
    assert has_huge_number(text) == (digits >= 310)
    decoder = JsonDecoder(msgspec.Raw, expected="JSON")
    if digits < 310:
        decoder.decode(text)
        assert encode_json(int("7" * digits))
        return
    with pytest.raises(BadRequest, match="310 digits"):
        decoder.decode(text)
    with pytest.raises(BadRequest, match="digits"):
        encode_json(int("7" * min(digits, 4_000)))
    with pytest.raises(MalformedFrame):
        CentrifugeJson().decode(b'{"id":1,"publish":{"channel":"a","data":' + text + b"}}")


def test_a_long_text_of_numbers_is_not_taken_for_one() -> None:
    assert not has_huge_number(b"[" + b"123," * 16_000 + b"1]")
    assert not has_huge_number(b'{"dna": "' + b"01" * 9_000 + b'"}')
    assert has_huge_number(b'{"\\"": ' + b"1" * 310 + b"}")
