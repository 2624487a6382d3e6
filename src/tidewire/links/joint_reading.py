"""Reads together what clients send often and what may wait a moment: one wake-up of the loop serves many sockets.

To wake up for each small message costs more than the message. While many come that may wait (publications that nobody
keeps, which are pushed in beats), the sockets of their senders are read every few milliseconds, and by their transports
again when few come. Clients that send nothing of that kind are read at once, as ever.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable

from tidewire.support.per_loop import PerLoop

__all__ = ("JoinedSocket", "JointReading")

#: Seconds between two looks at the sockets, and bytes that one look reads of each.
_SECONDS, _BYTES = 0.004, 65_536
#: Messages a second, of all clients of the loop, from which looks cost less than wake-ups; and how many are timed.
_WORTH, _TIMED = 1_000.0, 64
#: Looks between two sweeps. A socket that has brought nothing which may wait in between is left to its transport.
_SWEEP = 250


class JoinedSocket:
    """The socket of one client, in place of its transport for reading, until it has `left`.

    All else stays with the transport. It reads the end of the client, too: at an end or an error this one leaves.
    """

    __slots__ = ("_joint", "_left", "_receive", "_transport", "_was_used", "number")

    def __init__(
        self,
        joint: JointReading,
        transport: asyncio.Transport,
        receive: Callable[[bytes], None],
        left: Callable[[], None],
    ) -> None:
        self._joint = joint
        self._transport = transport
        self._receive = receive
        self._left = left
        self._was_used = True
        self.number: int = transport.get_extra_info("socket").fileno()

    def use(self) -> None:
        """Note that a message of this client may wait."""
        self._was_used = True
        self._joint.count()

    def sweep(self, *, is_worth: bool) -> None:
        """Leave if this is no longer worth it, or no message that may wait has come since the last sweep."""
        if not (is_worth and self._was_used):
            self.leave()
        self._was_used = False

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        self._joint.unwatch(self)

    def resume_reading(self) -> None:
        """Read again, with the next look."""
        self._joint.watch(self)

    def read(self) -> None:
        """Read what has come."""
        if self._transport.is_closing():  # the number may be another socket's soon
            self.leave()
            return
        try:
            data = os.read(self.number, _BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._receive(data)
        else:
            self.leave()

    def leave(self) -> None:
        """Leave the socket to its transport; harmless when it has left."""
        if self._joint.part(self):
            self._left()

    def fail(self, error: Exception) -> None:
        """End the connection, as its transport does when its protocol raises."""
        context = {"message": "a message cannot be received", "exception": error, "transport": self._transport}
        asyncio.get_running_loop().call_exception_handler(context)
        self._transport.abort()


class JointReading(PerLoop):
    """The sockets of one event loop that are read together, and whether that is worth it."""

    __slots__ = ("_count", "_is_worth", "_looks", "_selector", "_since", "_sockets")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._sockets: set[JoinedSocket] = set()
        #: There is one while there are sockets.
        self._selector: selectors.BaseSelector | None = None
        self._looks = self._count = 0
        self._since = loop.time()
        self._is_worth = False

    def __len__(self) -> int:
        return len(self._sockets)

    def count(self) -> None:
        """Count a message that may wait."""
        self._count += 1
        if self._count == _TIMED:
            now = self._loop.time()
            self._is_worth = (now - self._since) * _WORTH < _TIMED
            self._since, self._count = now, 0

    def join(
        self, transport: asyncio.Transport, receive: Callable[[bytes], None], left: Callable[[], None]
    ) -> JoinedSocket | None:
        """Count a message that may wait, and read the socket of its sender from now on, if that is worth it.

        `receive` is given the bytes, `left` is called at the end. Return None where the transport goes on: few such
        messages come, it ends, what it reads is not the socket's (TLS), or the system refuses.
        """
        self.count()
        if not self._is_worth or transport.is_closing() or transport.get_extra_info("ssl_object") is not None:
            return None
        if transport.get_extra_info("socket") is None:
            return None
        joined = JoinedSocket(self, transport, receive, left)
        try:
            if self._selector is None:
                self._selector = selectors.DefaultSelector()
                self._loop.call_later(_SECONDS, self._look)
            self.watch(joined)
        except OSError:  # no descriptor is left for it
            return None
        self._sockets.add(joined)
        transport.pause_reading()
        return joined

    def part(self, joined: JoinedSocket) -> bool:
        """Leave a socket to its transport; return whether it was read here."""
        if joined not in self._sockets:
            return False
        self.unwatch(joined)
        self._sockets.remove(joined)
        return True

    def watch(self, joined: JoinedSocket) -> None:
        """Read a socket; harmless when it is read."""
        if self._selector is not None and joined.number not in self._selector.get_map():
            self._selector.register(joined.number, selectors.EVENT_READ, joined)

    def unwatch(self, joined: JoinedSocket) -> None:
        """Do not read a socket; harmless when it is not read."""
        if self._selector is not None and joined.number in self._selector.get_map():
            self._selector.unregister(joined.number)

    def _look(self) -> None:
        selector = self._selector
        if selector is None:
            return
        if not self._sockets:
            self._selector = None
            selector.close()
            return
        self._loop.call_later(_SECONDS, self._look)
        for key, _ in selector.select(0):
            try:
                key.data.read()
            except Exception as error:
                key.data.fail(error)
        self._looks += 1
        if self._looks == _SWEEP:
            self._looks = 0
            for joined in tuple(self._sockets):
                joined.sweep(is_worth=self._is_worth)
