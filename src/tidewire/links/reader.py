"""The reading half of a WebSocket: bytes from a client become whole messages and control frames; it can be paused.

RFC 6455 section 5, and RFC 7692 for compressed messages. Here a hostile client meets its limits: the bytes and the
fragments of a message, and text that is no UTF-8. The parser does no I/O; the reader moves it over a transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum

import msgspec
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.base import Extension
from websockets.frames import Close, Frame
from websockets.frames import Opcode as FrameOpcode

from tidewire.errors import Disconnect
from tidewire.links.joint_reading import JoinedSocket, JointReading

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ("BY_APPLICATION", "BY_HANDSHAKE", "BY_WRITER", "Control", "Fault", "FrameParser", "Opcode", "Reader")


class Opcode(IntEnum):
    """The kind of a control frame (RFC 6455 section 5.5)."""

    CLOSE = 8
    PING = 9
    PONG = 10


#: First bytes of frames: a whole text, a whole binary message.
_WHOLE_TEXT, _WHOLE_BINARY = 0x81, 0x82
_CONTINUATION, _TEXT, _BINARY = 0, 1, 2
_FIN, _RSV1, _RSV23, _CONTROL, _MASKED = 0x80, 0x40, 0x30, 0x08, 0x80
#: Bytes of a control frame's payload at most; longer sizes stand in two or eight bytes of their own.
_SHORT = 125
#: Bytes that are read after the end, so that our close frame arrives; a client that sends more is cut off.
_DISCARD = 4_194_304
#: Why reading is paused: by the layer above, by a full write buffer (a client can't ask for more than it takes), by a
#: handshake that has no answer yet.
BY_APPLICATION, BY_WRITER, BY_HANDSHAKE = 1, 2, 4


class Control(msgspec.Struct, frozen=True, gc=False):
    """A control frame; `disconnect` has the code and reason of a close frame (1005 when it has none)."""

    opcode: Opcode
    payload: bytes
    disconnect: Disconnect | None = None


class Fault(Exception):
    """Raised where a client breaks the protocol or a limit: the code to close with, and the limit to count."""

    def __init__(self, code: int, reason: str, limit: str | None = None) -> None:
        super().__init__(code, reason)
        self.disconnect = Disconnect(code, reason, reconnect=False)
        self.limit = limit


class FrameParser:
    """Reads the frames of one client: `feed` takes bytes, `next_event` returns one message or control frame of them.

    The caller decides how far it reads; the rest waits here. After a `Fault` the parser is of no further use.
    """

    __slots__ = (
        "_at",
        "_extensions",
        "_first_opcode",
        "_fragments",
        "_is_compressed",
        "_max_fragments",
        "_max_size",
        "_size",
        "buffer",
    )

    def __init__(self, max_size: int, max_fragments: int, extensions: Sequence[Extension]) -> None:
        self._max_size = max_size
        self._max_fragments = max_fragments
        self._extensions = extensions
        #: The bytes that were fed, and how many of them are read: none is left as soon as all are.
        self.buffer: bytes | bytearray = b""
        self._at = 0
        #: The fragments of the message that has begun, if one has, and their bytes.
        self._fragments: list[bytes] | None = None
        self._first_opcode = self._size = 0
        self._is_compressed = False

    @property
    def is_amid_message(self) -> bool:
        """Whether a message or a frame has begun and is not complete, after `next_event` has returned None."""
        return bool(self.buffer) or self._fragments is not None

    @property
    def unread(self) -> int:
        """Bytes that were fed and have not been read."""
        return len(self.buffer) - self._at

    @property
    def incomplete(self) -> int:
        """Bytes that have come of the message that is not complete."""
        return self._size + self.unread

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        rest = self.buffer
        if not rest:
            self.buffer = data
            return
        if not isinstance(rest, bytearray):
            self.buffer = rest = bytearray(rest)
        if self._at:
            del rest[: self._at]
            self._at = 0
        rest += data

    def next_event(self) -> str | bytes | Control | None:
        """Return the next message or control frame, or None when more bytes must come first. Raises Fault."""
        while True:
            start, buffer = self._at, self.buffer
            have = len(buffer)
            if have - start < 2:
                return None
            first, size = buffer[start], buffer[start + 1] - _MASKED
            if size < 0:
                raise Fault(1002, "incorrect masking")
            begin = start + 6
            if size > _SHORT:
                begin += 2 if size == 126 else 8
                if have < begin - 4:
                    return None
                if size == 126:
                    size = buffer[start + 2] << 8 | buffer[start + 3]
                else:
                    size = int.from_bytes(buffer[start + 2 : begin - 4], "big")
            end = begin + size
            if (first != _WHOLE_TEXT and first != _WHOLE_BINARY) or self._fragments is not None:
                self._check(first, size)
            if size > self._max_size - self._size and not first & _CONTROL:
                raise Fault(1009, f"a message of more than {self._max_size} bytes", "message_size")
            if have < end:
                return None
            data = apply_mask(buffer[begin:end], buffer[begin - 4 : begin])
            if end == have:
                self.buffer, self._at = b"", 0
            else:
                self._at = end
            if first == _WHOLE_TEXT:
                try:
                    return data.decode()
                except UnicodeDecodeError as error:
                    raise _no_text(error) from None
            if first == _WHOLE_BINARY:
                return data
            event = self._handle(first, data)
            if event is not None:
                return event

    def _check(self, first: int, size: int) -> None:
        """Judge a frame by its first byte and its size, before its payload has come."""
        opcode = first & 15
        if first & _RSV23 or (first & _RSV1 and (not self._extensions or opcode not in (_TEXT, _BINARY))):
            raise Fault(1002, "reserved bits must be 0")
        if opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
            if size > _SHORT:
                raise Fault(1002, "control frame too long")
            if not first & _FIN:
                raise Fault(1002, "fragmented control frame")
        elif opcode == _CONTINUATION:
            if self._fragments is None:
                raise Fault(1002, "unexpected continuation frame")
        elif opcode in (_TEXT, _BINARY):
            if self._fragments is not None:
                raise Fault(1002, "expected a continuation frame")
        else:
            raise Fault(1002, "invalid opcode")

    def _handle(self, first: int, data: bytes) -> str | bytes | Control | None:
        opcode = first & 15
        if opcode & _CONTROL:
            return self._parse_control(Opcode(opcode), data)
        if self._fragments is None:
            self._first_opcode = opcode
            self._is_compressed = bool(first & _RSV1)
            self._fragments = []
        if self._is_compressed:
            data = self._decompress(first, data)
        return self._add_fragment(self._fragments, data, is_last=bool(first & _FIN))

    def _add_fragment(self, fragments: list[bytes], data: bytes, *, is_last: bool) -> str | bytes | None:
        fragments.append(data)
        self._size += len(data)
        if len(fragments) > self._max_fragments:
            raise Fault(1009, f"more than {self._max_fragments} fragments in one message", "fragments")
        if not is_last:
            return None
        self._fragments, self._size = None, 0
        message = fragments[0] if len(fragments) == 1 else b"".join(fragments)
        if self._first_opcode != _TEXT:
            return message
        try:
            return message.decode()
        except UnicodeDecodeError as error:
            raise _no_text(error) from None

    def _parse_control(self, opcode: Opcode, payload: bytes) -> Control:
        if opcode is not Opcode.CLOSE:
            return Control(opcode, payload)
        try:
            close = Close.parse(payload)
        except ProtocolError as error:
            raise Fault(1002, str(error)) from None
        except UnicodeDecodeError as error:
            raise _no_text(error) from None
        if self._fragments is not None:
            raise Fault(1002, "incomplete fragmented message")
        return Control(opcode, payload, Disconnect(int(close.code), close.reason))

    def _decompress(self, first: int, data: bytes) -> bytes:
        """Return the content of one frame of a compressed message; never more than the message may have."""
        frame = Frame(FrameOpcode(first & 15), data, bool(first & _FIN), bool(first & _RSV1))
        try:
            for extension in reversed(self._extensions):
                frame = extension.decode(frame, max_size=self._max_size - self._size)
        except PayloadTooBig:
            raise Fault(1009, f"a message of more than {self._max_size} bytes", "message_size") from None
        except ProtocolError as error:
            raise Fault(1002, str(error)) from None
        return bytes(frame.data)


def _no_text(error: UnicodeDecodeError) -> Fault:
    return Fault(1007, f"{error.reason} at position {error.start}")


Handle = Callable[[str | bytes | Control | Fault], None]


class Reader:
    """Reads one transport. Each message and control frame is given to `handle`, one call at a time.

    A pause takes effect at once, also in the middle of received bytes; the rest waits here.
    """

    __slots__ = ("_handle", "_is_reading", "_joined", "_left", "_loop", "_parser", "_pauses", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parser: FrameParser | None = None
        self._handle: Handle | None = None
        self._pauses = 0
        self._is_reading = False
        #: Reads instead of the transport.
        self._joined: JoinedSocket | None = None
        #: Bytes that may still come, after `limit_rest`.
        self._left: int | None = None

    def open(
        self, handle: Handle, early: bytes, max_size: int, max_fragments: int, extensions: Sequence[Extension]
    ) -> None:
        """Read frames from now on; `early`, which has come already, in the next turn of the loop."""
        self._parser = FrameParser(max_size, max_fragments, extensions)
        self._handle = handle
        self._pauses &= ~BY_HANDSHAKE
        if early:
            self._parser.feed(early)
            self._loop.call_soon(self._read_on)

    def limit_rest(self) -> None:
        """Cut the connection if the client sends much more: it is about to end."""
        if self._left is None:
            self._left = _DISCARD

    def close(self) -> None:
        """Give no more messages; bytes that still come are discarded."""
        self._parser = self._handle = None
        self.limit_rest()
        if self._joined is not None:
            self._joined.leave()

    @property
    def is_open(self) -> bool:
        """Whether frames are read."""
        return self._parser is not None

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return bool(self._pauses)

    @property
    def incomplete(self) -> int:
        """Bytes that have come of a message that is not complete."""
        return 0 if self._parser is None else self._parser.incomplete

    @property
    def is_amid_message(self) -> bool:
        """Whether all that has come was read, and the rest of a message or a frame is missing."""
        return self._parser is not None and self._parser.is_amid_message and not self._pauses

    def feed(self, data: bytes) -> bool:
        """Read bytes that the transport has received; return whether the rest of a message or a frame is missing."""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self._transport.abort()
                return False
        parser = self._parser
        if parser is None:
            return False
        parser.feed(data)
        self._read(parser)
        return not self._pauses and parser.is_amid_message

    def _read(self, parser: FrameParser) -> None:
        if self._is_reading:
            return
        self._is_reading = True
        try:
            while parser.buffer and not self._pauses:
                event, handle = parser.next_event(), self._handle
                if event is None or handle is None:
                    break
                handle(event)
        except Fault as fault:
            if self._handle is not None:
                self._handle(fault)
        finally:
            self._is_reading = False

    def _read_on(self) -> None:
        """Read the bytes that were left when reading paused, and go on with the transport."""
        if self._parser is not None:
            self._read(self._parser)
        if not self._pauses and not self._transport.is_closing():
            (self._joined or self._transport).resume_reading()

    def may_wait(self, receive: Callable[[bytes], None]) -> None:
        """Note that a message may wait: while many come, sockets are read together, and `receive` gets the bytes."""
        if self._joined is not None:
            self._joined.use()
            return
        self._joined = JointReading.of(self._loop).join(self._transport, receive, self._has_left)
        if self._joined is not None and self._pauses:
            self._joined.pause_reading()

    def _has_left(self) -> None:
        self._joined = None
        if not self._pauses and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause(self, reason: int) -> None:
        """Read no more until the same reason has resumed it."""
        self._pauses |= reason
        (self._joined or self._transport).pause_reading()

    def resume(self, reason: int) -> bool:
        """End a pause, and return whether reading goes on: no other reason is left."""
        if not self._pauses & reason:
            return False
        self._pauses &= ~reason
        if self._pauses:
            return False
        if self._parser is not None and self._parser.unread:
            self._loop.call_soon(self._read_on)
        elif not self._transport.is_closing():
            (self._joined or self._transport).resume_reading()
        return True

    def resume_all(self) -> None:
        """End every pause: the connection ends, and the client's last frames are to be seen."""
        self.resume(self._pauses)
