"""The frames of a WebSocket: bytes from a client become whole messages and control frames; no I/O.

RFC 6455 section 5, and RFC 7692 for compressed messages. Here a hostile client meets its limits: the bytes and the
fragments of a message, and text that is no UTF-8.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.base import Extension
from websockets.frames import Close, Frame
from websockets.frames import Opcode as FrameOpcode

from tidewire.errors import ConfigurationError, Disconnect

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ("Control", "Fault", "FrameParser", "Opcode", "close_frame", "control_frame")


class Opcode(IntEnum):
    """What a control frame is (RFC 6455 section 5.5)."""

    CLOSE = 8
    PING = 9
    PONG = 10


#: First bytes of frames: a whole text, a whole binary message.
_WHOLE_TEXT, _WHOLE_BINARY = 0x81, 0x82
_CONTINUATION, _TEXT, _BINARY = 0, 1, 2
_FIN, _RSV1, _RSV23, _CONTROL, _MASKED = 0x80, 0x40, 0x30, 0x08, 0x80
#: Bytes of a control frame's payload at most; longer sizes stand in two or eight bytes of their own.
_SHORT = 125


class Control(msgspec.Struct, frozen=True, gc=False):
    """A control frame; `disconnect` is what a close frame says (1005 when it says nothing)."""

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
        "_buffer",
        "_extensions",
        "_first_opcode",
        "_fragments",
        "_is_compressed",
        "_max_fragments",
        "_max_size",
        "_size",
    )

    def __init__(self, max_size: int, max_fragments: int, extensions: list[Extension]) -> None:
        self._max_size = max_size
        self._max_fragments = max_fragments
        self._extensions = extensions
        #: What was fed, and how much of it is read.
        self._buffer: bytes | bytearray = b""
        self._at = 0
        #: The fragments of the message that has begun, if one has, and their bytes.
        self._fragments: list[bytes] | None = None
        self._first_opcode = self._size = 0
        self._is_compressed = False

    @property
    def is_amid_message(self) -> bool:
        """Whether a message or a frame has begun and is not complete, after `next_event` has returned None."""
        return self._at < len(self._buffer) or self._fragments is not None

    @property
    def unread(self) -> int:
        """Bytes that were fed and have not been read."""
        return len(self._buffer) - self._at

    @property
    def incomplete(self) -> int:
        """Bytes that have come of the message that is not complete."""
        return self._size + self.unread

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._at == len(self._buffer):
            self._buffer, self._at = data, 0
            return
        rest = self._buffer
        if not isinstance(rest, bytearray):
            self._buffer = rest = bytearray(rest)
        if self._at:
            del rest[: self._at]
            self._at = 0
        rest += data

    def next_event(self) -> str | bytes | Control | None:
        """Return the next message or control frame, or None when more bytes must come first. Raises Fault."""
        while True:
            start, buffer = self._at, self._buffer
            left = len(buffer) - start
            if left < 2:
                return None
            first, size = buffer[start], buffer[start + 1]
            if not size & _MASKED:
                raise Fault(1002, "incorrect masking")
            size &= 127
            begin = start + 6
            if size > _SHORT:
                begin += 2 if size == 126 else 8
                if len(buffer) < begin - 4:
                    return None
                size = int.from_bytes(buffer[start + 2 : begin - 4], "big")
            if first != _WHOLE_TEXT or self._fragments is not None:
                self._check(first, size)
            if size > self._max_size - self._size and not first & _CONTROL:
                raise Fault(1009, f"a message of more than {self._max_size} bytes", "message_size")
            end = begin + size
            if len(buffer) < end:
                return None
            data = apply_mask(buffer[begin:end], buffer[begin - 4 : begin])
            if end == len(buffer):
                self._buffer, self._at = b"", 0
            else:
                self._at = end
            if first == _WHOLE_TEXT:
                return _text(data)
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
            if first == _WHOLE_BINARY:
                return data
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
        return _text(message) if self._first_opcode == _TEXT else message

    def _parse_control(self, opcode: Opcode, payload: bytes) -> Control:
        if opcode is not Opcode.CLOSE:
            return Control(opcode, payload)
        try:
            close = Close.parse(payload)
        except ProtocolError as error:
            raise Fault(1002, str(error)) from None
        except UnicodeDecodeError as error:
            raise Fault(1007, f"{error.reason} at position {error.start}") from None
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


def _text(data: bytes) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise Fault(1007, f"{error.reason} at position {error.start}") from None


def control_frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a control frame of the server."""
    return bytes((_FIN | opcode, len(payload))) + payload


def close_frame(disconnect: Disconnect) -> bytes:
    """Return a close frame of the server. Raises ConfigurationError for a code that cannot be sent (section 7.4)."""
    try:
        payload = Close(disconnect.code, _short(disconnect.reason)).serialize()
    except ProtocolError:
        raise ConfigurationError(
            f"close code {disconnect.code} cannot be sent; write 1000 to 1014 or 3000 to 4999"
        ) from None
    return control_frame(Opcode.CLOSE, payload)


def _short(reason: str) -> str:
    """Cut a reason to what a close frame holds (123 bytes, section 5.5)."""
    return reason if len(reason) <= 41 else reason.encode()[:123].decode(errors="ignore")
