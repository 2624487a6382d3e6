"""The parser of frames: beside the one of `websockets`, and with bytes that come in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as FrameOpcode
from websockets.protocol import Protocol, Side

from tidewire.links.reader import Control, Fault, FrameParser, Opcode

MAX_SIZE, MAX_FRAGMENTS = 300, 5
#: An event of either reader: a message, or a control frame's opcode and payload; at the end perhaps a close code.
Event = str | bytes | tuple[int, bytes] | int


def new_deflate() -> PerMessageDeflate:
    return PerMessageDeflate(True, True, 12, 12)


class LimitedDeflate(PerMessageDeflate):
    """Refuses a frame that is too large as it comes, however little it may decompress to (nothing behind its end)."""

    size = 0

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode not in (FrameOpcode.TEXT, FrameOpcode.BINARY, FrameOpcode.CONT):
            return super().decode(frame, max_size=max_size)
        if len(frame.data) > MAX_SIZE - self.size:
            raise PayloadTooBig(len(frame.data), MAX_SIZE)
        decoded = super().decode(frame, max_size=max_size)
        self.size = 0 if frame.fin else self.size + len(decoded.data)
        return decoded


def read(pieces: list[bytes], *, deflate: bool = False) -> list[Event]:
    parser = FrameParser(MAX_SIZE, MAX_FRAGMENTS, [new_deflate()] if deflate else [])
    events: list[Event] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (event := parser.next_event()) is not None:
                events.append((event.opcode, event.payload) if isinstance(event, Control) else event)
                if isinstance(event, Control) and event.opcode is Opcode.CLOSE:
                    return events
    except Fault as fault:
        events.append(fault.disconnect.code)
    return events


def read_by_websockets(data: bytes, *, deflate: bool) -> list[Event]:
    # with a limit of its own it would count a ping against what an unfinished message may still have
    core = Protocol(Side.SERVER, max_size=None)
    core.extensions = [LimitedDeflate(True, True, 12, 12)] if deflate else []
    core.receive_data(data)
    events: list[Event] = []
    fragments: list[Frame] = []
    for frame in core.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode in (FrameOpcode.PING, FrameOpcode.PONG, FrameOpcode.CLOSE):
            events.append((int(frame.opcode), bytes(frame.data)))
            if frame.opcode is FrameOpcode.CLOSE:
                return events
            continue
        fragments.append(frame)
        if len(fragments) > MAX_FRAGMENTS or sum(len(fragment.data) for fragment in fragments) > MAX_SIZE:
            return [*events, 1009]
        if frame.fin:
            whole = b"".join(bytes(fragment.data) for fragment in fragments)
            try:
                events.append(whole.decode() if fragments[0].opcode is FrameOpcode.TEXT else whole)
            except UnicodeDecodeError:
                return [*events, 1007]
            fragments = []
    if core.close_sent is not None:
        events.append(int(core.close_sent.code))
    return events


def serialize(first: int, data: bytes, mask: bytes, *, wide: bool = False, masked: bool = True) -> bytes:
    size = len(data)
    bit = 0x80 if masked else 0
    if size < 126 and not wide:
        head = bytes((first, bit | size))
    else:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    if not masked:
        return head + data
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


#: What clients send, and what they had better not.
FIRST = st.sampled_from(tuple(b"\x81\x81\x82\x01\x02\x00\x00\x80\x88\x89\x8a\x09\xc1\x41\x93\xa1"))
PAYLOADS = st.one_of(
    st.binary(max_size=140),
    st.text(max_size=40).map(str.encode),
    st.text(max_size=40).map(lambda text: (1000).to_bytes(2, "big") + text.encode()),
    st.integers(0, 400).map(bytes),
)
FRAMES = st.builds(
    serialize,
    FIRST,
    PAYLOADS,
    st.binary(min_size=4, max_size=4),
    wide=st.booleans(),
    masked=st.integers(0, 9).map(bool),
)


@settings(max_examples=1_000)
@given(st.lists(FRAMES, max_size=12), st.booleans())
@example([serialize(0x41, b"\x03", bytes(4)), serialize(0x80, bytes(301), bytes(4))], True)
@example([serialize(0x81, b"", bytes(4)), serialize(0x41, b"\x03", bytes(4)), serialize(0, bytes(301), bytes(4))], True)
def test_it_reads_what_websockets_reads(frames: list[bytes], deflate: bool) -> None:
    data = b"".join(frames)
    ours, theirs = read([data], deflate=deflate), read_by_websockets(data, deflate=deflate)
    assert [event for event in ours if not isinstance(event, int)] == [
        event for event in theirs if not isinstance(event, int)
    ]
    codes = [event for event in (*ours, *theirs) if isinstance(event, int)]
    # a frame that is both too large and out of place has two right codes
    assert codes in ([], codes[:1] * 2, [1002, 1009], [1009, 1002])


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 50), max_size=30))
def test_pieces_make_no_difference(frames: list[bytes], sizes: list[int]) -> None:
    data = b"".join(frames)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    assert read([*pieces, data[at:]]) == read([data])
    assert read([data[at : at + 1] for at in range(len(data))]) == read([data])


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_compressed_messages(texts: list[str]) -> None:
    client = PerMessageDeflate(True, True, 12, 12)
    data = b"".join(Frame(FrameOpcode.TEXT, text.encode()).serialize(mask=True, extensions=[client]) for text in texts)
    sizes = [len(text.encode()) for text in texts]
    expected = texts if max(sizes) <= MAX_SIZE else [*texts[: [size > MAX_SIZE for size in sizes].index(True)], 1009]
    assert read([data], deflate=True) == expected


def test_it_reads_no_further_than_it_is_asked_to() -> None:
    parser = FrameParser(MAX_SIZE, MAX_FRAGMENTS, [])
    parser.feed(serialize(0x81, b"one", b"abcd") + serialize(0x81, b"two", b"abcd") + b"\x81")
    assert parser.next_event() == "one"
    assert parser.unread == 10
    assert parser.next_event() == "two"
    assert parser.next_event() is None
    assert parser.is_amid_message


def test_a_message_is_amid_from_its_first_byte_to_its_last() -> None:
    parser = FrameParser(MAX_SIZE, MAX_FRAGMENTS, [])
    assert not parser.is_amid_message
    frames = serialize(0x01, b"a", b"abcd") + serialize(0x89, b"", b"abcd") + serialize(0x80, b"b", b"abcd")
    for at in range(len(frames) - 1):
        parser.feed(frames[at : at + 1])
        event = parser.next_event()
        assert event is None or event == Control(Opcode.PING, b"")
        assert parser.is_amid_message
    parser.feed(frames[-1:])
    assert parser.next_event() == "ab"
    assert not parser.is_amid_message


@pytest.mark.parametrize(
    ("data", "code", "limit"),
    [
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009, "message_size"),
        (b"\x82\xfe\x01\x2d", 1009, "message_size"),
        (serialize(0x01, b"", b"abcd") + serialize(0x00, b"", b"abcd") * 5, 1009, "fragments"),
        (b"\x89\xfe\x00\x7e", 1002, None),
        (serialize(0x88, b"\x03", b"abcd"), 1002, None),
        (serialize(0x88, b"\x03\xed", b"abcd"), 1002, None),
        (serialize(0x88, b"\x03\xe8\xff", b"abcd"), 1007, None),
    ],
)
def test_a_fault_names_its_code_and_its_limit_before_the_payload_has_come(
    data: bytes, code: int, limit: str | None
) -> None:
    parser = FrameParser(MAX_SIZE, MAX_FRAGMENTS, [])
    parser.feed(data)
    with pytest.raises(Fault) as caught:
        list(iter(parser.next_event, None))
    assert (caught.value.disconnect.code, caught.value.limit) == (code, limit)
