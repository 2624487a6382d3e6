"""The plain protocol: bytes and text as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import BadRequest, RateLimited
from tidewire.messages import Dropped, Format, Position, Publication, Subscribed, WireMessage
from tidewire.protocols.plain import PLAIN

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts | st.binary())
def test_what_a_client_sends_is_what_others_get(message: str | bytes) -> None:
    (command,) = PLAIN.decode(message)
    publication = Publication("a", 1, 0, "e", 0.0, command.data, command.format)
    shown = PLAIN.encode_publication(publication)
    assert (shown.data if shown.binary else shown.data.decode()) == message
    assert PLAIN.encode_subscribed(Subscribed("a", Position(1, "e"), (publication,))) == [shown]


@given(st.text() | st.binary())
def test_anything_is_decoded_or_refused(message: str | bytes) -> None:
    try:
        PLAIN.decode(message)
    except BadRequest:
        assert isinstance(message, str)
        with pytest.raises(UnicodeEncodeError):
            message.encode()


def test_notices() -> None:
    assert PLAIN.encode_error(RateLimited("slow down")) == WireMessage(b"error: slow down")
    assert b"7 messages were dropped" in PLAIN.encode_dropped(Dropped("a", 7)).data
    assert PLAIN.encode_pong() is None
    assert PLAIN.encode_insufficient("a") is None
    assert PLAIN.decode(b"x")[0].format is Format.BINARY
