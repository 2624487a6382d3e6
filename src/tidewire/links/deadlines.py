"""The moments by which something must happen on an open WebSocket; pure: the time is an argument."""

from __future__ import annotations

from enum import Enum, auto

from tidewire.options import Limits

__all__ = ("Deadlines", "Due")


class Due(Enum):
    """What is to be done now."""

    NOTHING = auto()
    PING = auto()
    NO_PONG = auto()  #: the client has not answered a ping in time
    END = auto()  #: what was to end the connection has taken too long


class Deadlines:
    """The deadlines of one WebSocket: the next ping, the pong to the last one, the end. Times are the loop's."""

    __slots__ = ("_end", "_limits", "_ping", "_pong")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._end = self._ping = self._pong = 0.0

    def start_pings(self, now: float, share: float) -> None:
        """Ping from now on, first after this share of the interval."""
        if self._limits.ping_seconds:
            self._ping = now + share * self._limits.ping_seconds

    def stop_pings(self) -> None:
        """Send no more pings, and expect no pong."""
        self._ping = self._pong = 0.0

    def heard(self) -> None:
        """Expect no pong: the client has shown that it is there."""
        self._pong = 0.0

    def reading_resumed(self, now: float) -> None:
        """Expect the pong within its whole time from now: it was not read meanwhile."""
        if self._pong:
            self._pong = now + self._limits.pong_seconds

    def end(self, moment: float) -> None:
        """End the connection at this moment; nothing else is due any more."""
        self._end = moment

    @property
    def is_ending(self) -> bool:
        """Whether the moment of the end is set."""
        return self._end > 0

    def next_moment(self) -> float | None:
        """Return when something is due next."""
        if self._end:
            return self._end
        if self._ping and self._pong:
            return min(self._ping, self._pong)
        return self._ping or None

    def take_due(self, now: float, *, is_reading: bool) -> Due:
        """Return what is due, once; while the client is not read it cannot be judged."""
        if self._end:
            return Due.END if now >= self._end else Due.NOTHING
        if self._pong and not is_reading:
            self._pong = now + self._limits.pong_seconds
        if self._pong and now >= self._pong:
            return Due.NO_PONG
        if self._ping and now >= self._ping:
            # While reading is paused too: a socket that is broken shows it only when it is written to.
            self._pong = self._pong or now + self._limits.pong_seconds
            self._ping = now + self._limits.ping_seconds
            return Due.PING
        return Due.NOTHING
