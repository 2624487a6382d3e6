"""The writing half of a WebSocket: framed bytes go to a transport, and a client that takes none of them is noticed."""

from __future__ import annotations

import asyncio

from websockets.frames import Close

from tidewire.errors import Disconnect
from tidewire.links.bytes_ahead import BytesAhead, bytes_ahead
from tidewire.links.reader import Opcode
from tidewire.links.tcp_socket import acknowledged_by, cut, unsent_by
from tidewire.protocols.close_codes import check_close_code, close_reason

__all__ = ("Stall", "Writer", "close_frame", "control_frame")

#: The first byte of a frame that is the last, or only one, of its message (RFC 6455 section 5.2).
_FIN = 0x80

#: Unsent bytes at which a transport tells its protocol to pause, and those at which it may go on.
_HIGH_WATER, _LOW_WATER = 65_536, 16_384


class Writer:
    """Writes to one transport, in order; it costs no timer, task or queue while the client keeps up.

    `pause` and `resume` are called when the transport's buffer has passed its high-water mark, and is below the low one
    again. With `hold_answer`, the handshake's answer waits for the next write, and goes out in front of it.

    A write is a system call, which costs more than all that comes before it. So the direct sends of one turn of the
    loop are joined (`write_later`), and batches of fan-out in the same turn go out with them. While it `is_direct`,
    nothing waits here and nobody watches: a batch may as well be given to the transport.
    """

    __slots__ = (
        "_answer",
        "_is_watched",
        "_later",
        "_later_size",
        "_loop",
        "_stall",
        "_transport",
        "_writable",
        "is_direct",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)
        self._transport = transport
        self._loop = loop
        #: Frames that wait for the end of the turn.
        self._later: list[bytes] | None = None
        self._later_size = 0
        #: An answer waits or the client stalls: a write has more to do than to write.
        self._is_watched = False
        self.is_direct = True
        self._answer = b""
        self._stall: Stall | None = None
        self._writable: asyncio.Event | None = None

    @property
    def is_paused(self) -> bool:
        """Whether more than the high-water mark waits to be sent."""
        return self._stall is not None

    def write(self, data: bytes, messages: int) -> None:
        """Write frames, joined with those that wait for the end of the turn."""
        if self._later is not None:
            self._later.append(data)
            self.flush()
        elif self._is_watched:
            self._write_watched(data, messages)
        else:
            self._transport.write(data)

    def write_later(self, data: bytes, messages: int) -> None:
        """Write frames at the end of this turn of the loop, joined with others; at once while the client is watched."""
        if self._is_watched:
            self._write_watched(data, messages)
            return
        if self._later is None:
            self._later = []
            self.is_direct = False
            self._loop.call_soon(self.flush)
        self._later.append(data)
        self._later_size += len(data)
        if self._later_size > _HIGH_WATER:
            self.flush()

    def flush(self) -> None:
        """Write the frames that wait for the end of the turn."""
        later = self._later
        if later is None:
            return
        self._later, self._later_size = None, 0
        self.is_direct = not self._is_watched
        if later and not self._transport.is_closing():
            self._transport.write(later[0] if len(later) == 1 else b"".join(later))

    def write_frame(self, data: bytes) -> None:
        """Write one frame, unless the transport is closing."""
        self.flush()
        if self._is_watched:
            self._write_watched(data, 0)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def _write_watched(self, data: bytes, messages: int) -> None:
        if self._answer:
            data = self.take_answer() + data
        if self._stall is not None:
            self._stall.bytes += len(data)
            self._stall.messages += messages
        if not self._transport.is_closing():
            self._transport.write(data)

    def _watch(self, is_watched: bool) -> None:
        self._is_watched = is_watched
        self.is_direct = not is_watched and self._later is None

    def hold_answer(self, answer: bytes) -> None:
        """Hold the handshake's answer back until the next write, or `release_answer`."""
        self._answer = answer
        self._watch(True)

    def release_answer(self) -> None:
        """Write the handshake's answer, if it waits."""
        if self._answer:
            self.write_frame(b"")

    def take_answer(self) -> bytes:
        """Return the answer that waits, and forget it."""
        answer, self._answer = self._answer, b""
        self._watch(self._stall is not None)
        return answer

    def backlog(self) -> tuple[int, int]:
        """Return the bytes that wait to be sent, and the messages written since the writer was last not paused."""
        return (
            self._transport.get_write_buffer_size() + self._later_size,
            0 if self._stall is None else self._stall.messages,
        )

    def bytes_ahead(self) -> BytesAhead | None:
        """Return the bytes before a ping that is written now (links.bytes_ahead)."""
        return bytes_ahead(self._transport, self._later_size)

    def pause(self, now: float) -> None:
        """Begin to watch how much the client takes."""
        self._stall = Stall(self._transport, now)
        self._watch(True)

    def resume(self) -> None:
        """End the watch: the client has taken enough."""
        self._stall = None
        self._watch(bool(self._answer))
        self.release_waiters()

    def release_waiters(self) -> None:
        """Wake the tasks in `wait_writable`."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    async def wait_writable(self) -> None:
        """Wait until `release_waiters`."""
        if self._writable is None:
            self._writable = asyncio.Event()
        await self._writable.wait()

    def stalled_seconds(self, now: float) -> float:
        """Return the seconds for which a paused client has not taken a byte."""
        return 0.0 if self._stall is None else self._stall.lasts(now)

    def cut(self) -> None:
        """End the connection of a client that takes nothing."""
        cut(self._transport)


class Stall:
    """The account of a client since it takes less than is written."""

    __slots__ = ("_acknowledged", "_left", "_since", "_transport", "bytes", "messages")

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self._transport = transport
        self._acknowledged, self._left = acknowledged_by(transport), unsent_by(transport)
        self._since = now
        #: Written since the last look; messages: since the writer paused.
        self.bytes = self.messages = 0

    def lasts(self, now: float) -> float:
        """Return the seconds for which the client has not accepted a byte."""
        acknowledged, left = acknowledged_by(self._transport), unsent_by(self._transport)
        is_less = acknowledged is None and left < self._left + self.bytes
        if is_less or acknowledged != self._acknowledged:
            self._since = now
        self._acknowledged, self._left, self.bytes = acknowledged, left, 0
        return now - self._since


def control_frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a control frame of the server."""
    return bytes((_FIN | opcode, len(payload))) + payload


def close_frame(disconnect: Disconnect) -> bytes:
    """Return a close frame of the server. Raises ConfigurationError for a code that cannot be sent (section 7.4)."""
    check_close_code(disconnect.code)
    return control_frame(Opcode.CLOSE, Close(disconnect.code, close_reason(disconnect.reason)).serialize())
