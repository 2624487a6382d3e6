"""Everything that the event loop hands to the writer thread; nothing here touches the database."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Sequence
from enum import Enum

from tidewire.backends.shared.waiting import Write
from tidewire.messages import Position, PublishRequest

__all__ = ("DeliveryOrder", "FileWrite", "Mailbox")


#: Bytes of deliveries that may wait for the event loop.
_UNDELIVERED = 16 * 1_048_576


class _State(Enum):
    WAITING = 0
    TAKEN = 1
    WITHDRAWN = 2


class FileWrite(Write):
    """One publish, or one removal of a channel's history or of a key, on its way to the disk."""

    __slots__ = ("removes", "state")

    def __init__(self, request: PublishRequest, seconds: float, *, removes: bool = False) -> None:
        super().__init__(request, seconds)
        self.removes = removes
        self.state = _State.WAITING


class DeliveryOrder:
    """A subscription to a channel, with a future for its position, or (without a future) its end."""

    __slots__ = ("channel", "future")

    def __init__(self, channel: str, future: asyncio.Future[Position] | None) -> None:
        self.channel = channel
        self.future = future


class Mailbox:
    """Writes and orders that wait for the writer thread, and the means to wake it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: deque[FileWrite] = deque()
        self._orders: list[DeliveryOrder] = []
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._is_awake = False
        self._undelivered = 0
        #: Nothing more is accepted; the writer ends when nothing waits.
        self.is_closed = False

    # From the event loop.

    def put(self, writes: Sequence[FileWrite]) -> None:
        """Hand over writes, in their order."""
        with self._lock:
            self._writes.extend(writes)
        self.wake()

    def order(self, order: DeliveryOrder) -> None:
        """Hand over a subscription or its end."""
        with self._lock:
            self._orders.append(order)
        self.wake()

    def withdraw(self, write: FileWrite) -> bool:
        """Take a write back; False when the writer has it already."""
        with self._lock:
            if write.state is _State.TAKEN:
                return False
            write.state = _State.WITHDRAWN
            return True

    def close(self) -> None:
        """Accept nothing more."""
        self.is_closed = True
        self.wake()

    def abandon(self) -> None:
        """Accept nothing more, and wait for no delivery: the event loop is over. From the writer thread."""
        self.is_closed = True
        with self._lock:
            self._undelivered = 0

    def wake(self) -> None:
        """Wake the writer thread."""
        with self._lock:
            if not self._is_awake:
                self._is_awake = True
                self._sender.send(b"\0")

    def delivered(self, size: int) -> None:
        """Note that so many bytes of deliveries have been handled."""
        was_congested = self.is_congested
        with self._lock:
            self._undelivered -= size
        if was_congested and not self.is_congested:
            self.wake()

    # From the writer thread.

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the thread is woken."""
        return self._receiver.fileno()

    def drain(self) -> None:
        """Forget the wake-ups that have come: the thread looks now."""
        with self._lock:
            if self._is_awake:
                self._receiver.recv(16)
                self._is_awake = False

    @property
    def has_writes(self) -> bool:
        """Some writes wait."""
        with self._lock:
            writes = self._writes
            while writes and writes[0].state is _State.WITHDRAWN:
                writes.popleft()
            return bool(writes)

    def take(self, count: int, size: int) -> list[FileWrite]:
        """Take waiting writes in their order, about `size` bytes at most; from now on they cannot be withdrawn."""
        taken: list[FileWrite] = []
        withdrawn, now_taken = _State.WITHDRAWN, _State.TAKEN
        with self._lock:
            writes = self._writes
            while writes and count > 0 and size > 0:
                write = writes.popleft()
                if write.state is not withdrawn:
                    write.state = now_taken
                    count -= 1
                    size -= write.size
                    taken.append(write)
        return taken

    def take_orders(self) -> list[DeliveryOrder]:
        """Take the orders that wait, in their order."""
        with self._lock:
            taken, self._orders = self._orders, []
        return taken

    def posted(self, size: int) -> None:
        """Note that so many bytes of deliveries are on their way to the event loop."""
        with self._lock:
            self._undelivered += size

    @property
    def is_congested(self) -> bool:
        """The event loop is so far behind with deliveries that the writer thread should wait for it."""
        return self._undelivered > _UNDELIVERED

    def dispose(self) -> None:
        """Close the sockets, when the thread has ended."""
        self._receiver.close()
        self._sender.close()
