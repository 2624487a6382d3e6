"""The reading half of an open WebSocket connection: bytes to frames (by the sans-I/O core), frames to whole messages.

Here a hostile peer meets its limits: bytes and fragments of a message, control frames, text that is no UTF-8.
"""

from __future__ import annotations

from typing import Any

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Core

from tidewire.errors import Disconnect
from tidewire.links.base import LOST
from tidewire.links.writer import WireLink
from tidewire.support.counters import count_limit

__all__ = ("ReadingLink",)

#: Bytes that are parsed at a time: bounds what one read of many tiny frames can make of memory.
_SLICE = 4_096
#: Bytes that are read after our close frame; who sends more is not waited for.
_DISCARD = 4_194_304


class ReadingLink(WireLink):
    """Tells the listener what comes; `message` gets it while there is none."""

    __slots__ = ()

    def message(self, message: str | bytes) -> None:
        """Take a message while there is no listener; to be overridden."""

    def data_received(self, data: bytes) -> None:
        self._pong_due = 0.0
        if self.is_closed:
            self._discarded += len(data)
            if self._discarded > _DISCARD:
                self.transport.abort()
                return
        if self._unread:
            self._unread += data
        elif self._ended is None:
            self._read(data)

    # Reading.

    def _read(self, data: bytes) -> None:
        self._in_read = True
        position, size = 0, len(data)
        while position < size and not self._pauses and self._ended is None:
            self._parse(data if size <= _SLICE else data[position : position + _SLICE])
            position += _SLICE
        self._in_read = False
        if self._ended is not None:
            return
        if position < size:
            self._unread = data[position:]
        elif not self._pauses:
            self.transport.resume_reading()

    def _read_on(self) -> None:
        data, self._unread = self._unread, b""
        if self._pauses or self._in_read:
            self._unread = data
        elif self._ended is None:
            self._read(data)

    def _parse(self, data: bytes) -> None:
        core = self._core
        assert core is not None
        core.receive_data(data)
        events, output = core.events_received(), core.data_to_send()
        for event in events:
            assert isinstance(event, Frame)
            if event.opcode is Opcode.PING:
                # Its pong is the next output; it goes out before the answers to the messages behind the ping.
                pong = output.pop(0)
                if not self.is_closed:
                    self._write_last(pong)
            elif event.opcode is Opcode.CLOSE:
                self._take_close(core, output)
            self._take(event)
            if self._ended is not None:
                return
        if output:
            self._parser_failed(core, output)

    def _take(self, event: Frame) -> None:
        opcode = event.opcode
        if opcode is Opcode.PING or opcode is Opcode.PONG:
            self._take_control()
        elif self.is_closed:
            return
        elif opcode is Opcode.CONT:
            self._take_fragment(event)
        elif event.fin:
            self._deliver(opcode, event.data)
        else:
            self._fragments = [event]

    def _take_fragment(self, event: Frame) -> None:
        fragments = self._fragments
        if fragments is None:
            return
        fragments.append(event)
        if len(fragments) > self.limits.fragments:
            reason = f"more than {self.limits.fragments} fragments in one message"
            self._fail(Disconnect(1009, reason, reconnect=False), "fragments")
        elif event.fin:
            self._fragments = None
            self._deliver(fragments[0].opcode, b"".join([fragment.data for fragment in fragments]))

    def _take_control(self) -> None:
        rate, now = self.limits.rate, self._loop.time()
        self._control_time = max(self._control_time, now) + 1.0 / rate
        if self._control_time - now > self.limits.burst / rate:
            self._fail(Disconnect(1008, "too many control frames", reconnect=False), "rate")

    def _take_close(self, core: Core, output: list[bytes]) -> None:
        received = core.close_rcvd
        assert received is not None
        self._tell_closed(self._closing or Disconnect(int(received.code), received.reason), clean=True)
        self._write_last(b"".join(output))
        self._end(self.close_seconds)

    def _deliver(self, opcode: Opcode, data: Any) -> None:
        message: str | bytes
        if opcode is Opcode.TEXT:
            try:
                message = str(data, "utf-8")
            except UnicodeDecodeError as error:
                self._fail(Disconnect(1007, f"{error.reason} at position {error.start}", reconnect=False))
                return
        else:
            message = bytes(data)
        if self._listener is not None:
            self._guard(self._listener.message_received, message)
        else:
            self.message(message)

    def _parser_failed(self, core: Core, output: list[bytes]) -> None:
        if isinstance(core.parser_exc, PayloadTooBig):
            count_limit("message_size")
        self._write_last(b"".join(output))
        sent = core.close_sent
        disconnect = LOST if sent is None else Disconnect(int(sent.code), sent.reason, reconnect=False)
        self._tell_closed(self._closing or disconnect, clean=False)
        self._linger()
