"""The reading half of a WebSocket: it turns the bytes of a transport into messages, and can be paused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidewire.links.frames import Control, Fault, FrameParser

__all__ = ("BY_APPLICATION", "BY_HANDSHAKE", "BY_WRITER", "Reader")

#: Bytes that are read after the end, so that our close frame arrives; a client that sends more is cut off.
_DISCARD = 4_194_304
#: Why reading is paused: by the layer above, by a full write buffer (a client can't ask for more than it takes), by a
#: handshake that has no answer yet.
BY_APPLICATION, BY_WRITER, BY_HANDSHAKE = 1, 2, 4


class Reader:
    """Reads one transport. Each message and control frame is given to `handle`, one call at a time.

    A pause takes effect at once, also in the middle of what has been received; the rest waits here.
    """

    __slots__ = ("_handle", "_is_reading", "_left", "_loop", "_parser", "_pauses", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parser: FrameParser | None = None
        self._handle: Callable[[str | bytes | Control | Fault], None] | None = None
        self._pauses = 0
        self._is_reading = False
        #: Bytes that may still come, after `limit_rest`.
        self._left: int | None = None

    def open(self, parser: FrameParser, handle: Callable[[str | bytes | Control | Fault], None], early: bytes) -> None:
        """Read frames from now on; `early`, which has come already, in the next turn of the loop."""
        self._parser = parser
        self._handle = handle
        self._pauses &= ~BY_HANDSHAKE
        if early:
            parser.feed(early)
            self._loop.call_soon(self._read_on)

    def limit_rest(self) -> None:
        """Cut the connection if the client sends much more: it is about to end."""
        if self._left is None:
            self._left = _DISCARD

    def close(self) -> None:
        """Give no more messages; bytes that still come are discarded."""
        self._parser = self._handle = None
        self.limit_rest()

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
        return parser.is_amid_message and not self._pauses

    def _read(self, parser: FrameParser) -> None:
        if self._is_reading:
            return
        self._is_reading = True
        try:
            while not self._pauses and self._handle is not None:
                event = parser.next_event()
                if event is None:
                    break
                self._handle(event)
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
            self._transport.resume_reading()

    def pause(self, reason: int) -> None:
        """Read no more until the same reason has resumed it."""
        self._pauses |= reason
        self._transport.pause_reading()

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
            self._transport.resume_reading()
        return True

    def resume_all(self) -> None:
        """End every pause: the connection ends, and the client's last frames are to be seen."""
        self.resume(self._pauses)
