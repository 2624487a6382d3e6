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
    LATE_MESSAGE = auto()  #: the rest of a message has not come in time
    END = auto()  #: what was to end the connection has taken too long


class Deadlines:
    """The deadlines of one WebSocket: the next ping, the pong to the last one, the rest of a message, the end.

    Times are the loop's; 0 stands for none.
    """

    __slots__ = ("_end", "_limits", "_message", "_message_began", "_ping", "_pong")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._end = self._message = self._message_began = self._ping = self._pong = 0.0

    def start_pings(self, now: float, share: float) -> None:
        """Ping from now on, first after this share of the interval."""
        if self._limits.ping_seconds:
            self._ping = now + share * self._limits.ping_seconds

    def stop_pings(self) -> None:
        """Send no more pings, and expect no pong."""
        self._ping = self._pong = 0.0

    def pong_received(self) -> None:
        """Expect no pong."""
        self._pong = 0.0

    def message_received(self) -> None:
        """Expect nothing: a whole message shows as much as a pong that the client is there."""
        self._message = self._pong = 0.0

    def message_began(self, now: float) -> bool:
        """Expect the rest of a message, unless it is expected already; return whether this sets a deadline."""
        if self._message:
            return False
        self._message_began = now
        self._message = now + self._limits.message_seconds
        return True

    def message_ended(self) -> None:
        """Expect no rest: nothing is incomplete."""
        self._message = 0.0

    def reading_resumed(self, now: float) -> None:
        """Expect everything within its whole time from now: it was not read meanwhile."""
        if self._pong:
            self._pong = now + self._limits.pong_seconds
        if self._message:
            self._message_began = now
            self._message = now + self._limits.message_seconds

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
        return min((moment for moment in (self._ping, self._pong, self._message) if moment), default=None)

    def take_due(self, now: float, *, is_reading: bool, received: int = 0) -> Due:
        """Return what is due, once. `received` are the bytes that have come of an incomplete message.

        A client that is not read cannot be judged.
        """
        if self._end:
            return Due.END if now >= self._end else Due.NOTHING
        if not is_reading:
            self.reading_resumed(now)
        if self._message and now >= self._message:
            limits = self._limits
            self._message = self._message_began + limits.message_seconds + received / limits.body_rate
            if now >= self._message:
                return Due.LATE_MESSAGE
        if self._pong and now >= self._pong:
            if not self._message:
                return Due.NO_PONG
            self._pong = self._message  # the pong may stand behind the message
        if self._ping and now >= self._ping:
            # While reading is paused too: a socket that is broken shows it only when it is written to.
            self._pong = self._pong or now + self._limits.pong_seconds
            self._ping = now + self._limits.ping_seconds
            return Due.PING
        return Due.NOTHING
