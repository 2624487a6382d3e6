"""Ends connections whose peers take nothing of what waits for them, wherever it waits: here or in the kernel.

The kernel's own clock (TCP_USER_TIMEOUT) does not stop for a peer that takes less than a whole piece of it, so it ends
peers that read slowly and steadily. The bytes that a peer has acknowledged count here.
"""

from __future__ import annotations

import asyncio

from tidewire.limits import Limits
from tidewire.links.tcp_socket import acknowledged_by, cut, unsent_by
from tidewire.support.counters import count_limit
from tidewire.support.timer_wheel import TimerWheel

__all__ = ("UnreadWatch",)

#: Seconds between two looks at a connection, as parts of the limit: at one for which nothing waits, and at others.
_IDLE, _WAITING = 0.3, 0.1
#: Unsent bytes from which the connection's own watch (links.writer.Stall) is on duty, which tells its listener why; and
#: the seconds by which this one comes later then.
_WATCHED, _LATER = 65_536, 3.0


class UnreadWatch:
    """The watch over one connection, from its beginning until it is closed."""

    __slots__ = ("_acknowledged", "_limits", "_since", "_transport", "timer_slot")

    def __init__(self, transport: asyncio.Transport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits
        #: When the peer was last seen to take something, while something waits for it; 0: nothing waits.
        self._since = 0.0
        self._acknowledged: int | None = None
        self.timer_slot = 0

    @classmethod
    def begin(cls, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        """Watch a connection, where the kernel tells what its peer has taken."""
        if acknowledged_by(transport) is not None:
            TimerWheel.of(loop).schedule(cls(transport, limits), _IDLE * limits.stalled_seconds)

    def on_timer(self, now: float) -> float | None:
        """Look at what waits and what was taken; return the seconds until the next look."""
        seconds = self._limits.stalled_seconds
        if not unsent_by(self._transport):
            self._since = 0.0
            return None if self._transport.is_closing() else _IDLE * seconds
        acknowledged = acknowledged_by(self._transport)
        if acknowledged is None:  # it is closed
            return None
        if not self._since or acknowledged != self._acknowledged:
            self._since, self._acknowledged = now, acknowledged
        is_watched = self._transport.get_write_buffer_size() > _WATCHED
        if now - self._since < seconds + (_LATER if is_watched else 0.0):
            return _WAITING * seconds
        count_limit("stalled_seconds")
        cut(self._transport)
        return None
