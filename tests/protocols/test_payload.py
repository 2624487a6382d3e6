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
from tidewire.protocols.payload import encode_announcement, encode_json, encode_message, encode_payload


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
    assert encode_announcement(None) is None
    assert encode_announcement("bye") == Announcement(b"bye", Format.TEXT)
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
