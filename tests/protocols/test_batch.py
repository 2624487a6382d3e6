"""Frames that a client understands, and batches that are made once."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Core
from websockets.protocol import Side

from tidewire.messages import Format, Publication, WireMessage
from tidewire.protocols.batch import Batch, Representation, frame
from tidewire.protocols.json import JSON
from tidewire.protocols.plain import PLAIN, PlainProtocol

sizes = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])


def parse(data: bytes, *, deflate: bool = False) -> list[Frame]:
    """Read frames as a client does."""
    core = Core(Side.CLIENT)
    if deflate:
        core.extensions = [PerMessageDeflate(True, True, 12, 15)]
    core.receive_data(data)
    assert core.parser_exc is None
    return [event for event in core.events_received() if isinstance(event, Frame)]


def publication(offset: int, data: bytes = b"x", format_: Format = Format.TEXT) -> Publication:
    return Publication("a", offset, offset - 1, "e", 1_700_000_000.5, data, format_)


@given(sizes, st.booleans(), st.booleans())
def test_a_frame_is_read_as_it_was_written(size: int, binary: bool, deflate: bool) -> None:
    data = bytes(index % 95 + 32 for index in range(size))
    (event,) = parse(frame(data, binary, deflate), deflate=deflate)
    assert event.opcode is (Opcode.BINARY if binary else Opcode.TEXT)
    assert event.fin
    assert bytes(event.data) == data


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=20), st.booleans())
def test_joined_frames_are_the_messages_in_their_order(messages: list[tuple[bytes, bool]], deflate: bool) -> None:
    batch = Batch([WireMessage(*message) for message in messages], deflate=deflate)
    events = parse(batch.joined, deflate=deflate)
    assert [(bytes(event.data), event.opcode is Opcode.BINARY) for event in events] == messages
    assert (len(batch), batch.size) == (len(messages), sum(len(data) for data, _ in messages))


def test_deflated_messages_do_not_depend_on_each_other() -> None:
    data = b"the same words again and again " * 20
    first, second = frame(data, binary=False, deflate=True), frame(data, binary=False, deflate=True)
    assert first == second
    assert len(first) < len(data) / 4
    assert zlib.decompressobj(wbits=-15).decompress(first[2:] + b"\x00\x00\xff\xff") == data


def test_what_is_prepared_is_prepared_once() -> None:
    batch = PLAIN_TEXT.batch([publication(1, b"a"), publication(2, b"b", Format.BINARY)])
    assert batch.joined is batch.joined
    assert batch.asgi is batch.asgi
    assert batch.asgi == [{"type": "websocket.send", "text": "a"}, {"type": "websocket.send", "bytes": b"b"}]


def test_nothing_but_our_own_line_feeds_ends_a_line_of_a_stream() -> None:
    """An event with U+2028 in it was cut in two by the readers that `str.splitlines` is in."""
    text = "\u2028a\u2029b\x85c\u2027\xe9"
    batch = Batch([WireMessage(json.dumps(text, ensure_ascii=False).encode())])
    for before, after in ((b"", b"\n"), (b"data: ", b"\n\n")):
        lines = batch.delimited(before, after).decode().splitlines()
        assert json.loads(lines[0].removeprefix(before.decode())) == text
        assert not any(lines[1:])
    assert batch.delimited(b"", b"") == batch.messages[0].data  # of binary messages each byte counts


def test_text_that_is_none_does_not_raise_for_an_asgi_server() -> None:
    assert Batch([WireMessage(b"a\xff")]).asgi[0]["text"] == "a\ufffd"


PLAIN_TEXT = Representation.of(PLAIN)


def test_who_shares_a_protocol_and_compression_shares_a_representation() -> None:
    assert Representation.of(PLAIN) is PLAIN_TEXT
    assert Representation.of(PLAIN, deflate=True) is Representation.of(PLAIN, deflate=True)
    assert Representation.of(PLAIN, deflate=True) is not PLAIN_TEXT
    assert Representation.of(JSON) is not PLAIN_TEXT


def test_a_protocol_made_for_each_connection_does_not_stay() -> None:
    before = len(Representation._known)
    for _ in range(100):
        assert Representation.of(PlainProtocol()).protocol is not PLAIN
    assert len(Representation._known) == before


@pytest.mark.parametrize("deflate", [False, True])
def test_direct_messages(deflate: bool) -> None:
    batch = Representation.of(PLAIN, deflate=deflate).direct(WireMessage(b"a"), WireMessage(b"b", binary=True))
    assert [bytes(event.data) for event in parse(batch.joined, deflate=deflate)] == [b"a", b"b"]
