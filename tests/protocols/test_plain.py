"""The plain protocol: bytes and text as they are."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from hypothesis import given
from hypothesis import strategies as st

from tidewire import Hub, PlainProtocol
from tidewire.errors import BadRequest, RateLimited
from tidewire.messages import Dropped, Format, Position, Publication, Subscribed, WireMessage
from tidewire.protocols.base import Protocol
from tidewire.protocols.chat import ChatProtocol
from tidewire.protocols.json import JsonProtocol
from tidewire.protocols.plain import PLAIN
from tidewire.protocols.recoverable import RecoverableProtocol
from tidewire.testing import Realtime

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


def own_form(base: type[Protocol[Any]]) -> Protocol[Any]:
    """Return a protocol of an application that writes publications in a form of its own, and leaves some out."""

    def encode_publication(self: Protocol[Any], publication: Publication) -> WireMessage | None:
        return WireMessage(b"<%b>" % publication.data) if publication.data != b"hidden" else None

    own: type[Protocol[Any]] = type("Own", (base,), {"encode_publication": encode_publication})
    derived: Protocol[Any] = type("Derived", (own,), {})()
    return derived


@pytest.mark.parametrize("base", [PlainProtocol, RecoverableProtocol, JsonProtocol, ChatProtocol])
def test_who_overrides_the_form_of_publications_gets_each_in_it(base: type[Protocol[Any]]) -> None:
    protocol = own_form(base)
    some = [
        Publication("a", n, n - 1, "e", 0.0, data, Format.TEXT) for n, data in enumerate((b"x", b"hidden", b"y"), 1)
    ]
    assert protocol.encode_publications(some) == [WireMessage(b"<x>"), WireMessage(b"<y>")]
    if base is not ChatProtocol:  # its answer has them inside of it
        assert protocol.encode_subscribed(Subscribed("a", Position(3, "e"), tuple(some)))[-2:] == [
            WireMessage(b"<x>"),
            WireMessage(b"<y>"),
        ]


def test_a_subscriber_gets_the_form_of_a_derived_protocol_live_and_from_history(realtime: Realtime) -> None:
    hub, protocol = Hub(), own_form(PlainProtocol)
    app = FastAPI(lifespan=hub.lifespan)

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        async with hub.connect(websocket, protocol=protocol) as connection:
            await connection.subscribe("a", history=10)
            async for text in connection.iter_text():
                await connection.publish("a", text)

    with realtime(app) as rt:
        first = rt.connect("/ws")
        first.send("live")
        assert first.expect() == "<live>"
        assert rt.connect("/ws").expect() == "<live>"
