"""The moments by which something must happen on an open WebSocket; pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from tidewire.limits import Limits
from tidewire.links.bytes_ahead import BytesAhead

__all__ = ("Deadlines", "Due")


#: Seconds between looks at the bytes before a ping.
_LOOK = 1.0
#: Returns the bytes before a ping that is written now, if there are some.
Ahead = Callable[[], BytesAhead | None]


def _nothing() -> None:
    return


class Due(Enum):
    """The step that is to be done now."""

    NOTHING = auto()
    PING = auto()
    NO_PONG = auto()  #: the client has not answered a ping in time
    LATE_MESSAGE = auto()  #: the rest of a message has not come in time
    END = auto()  #: the end of the connection has taken too long


class Deadlines:
    """The deadlines of one WebSocket: the next ping, the pong to the last one, the rest of a message, the end.

    Times are the loop's; 0 stands for none. While neither a `pong` nor the `rest` of a message is expected, a message
    need not be reported.
    """

    __slots__ = ("_ahead", "_began", "_controls", "_end", "_has_pings", "_limits", "_look", "_ping", "pong", "rest")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._has_pings = limits.ping_seconds > 0
        self._ahead: BytesAhead | None = None
        self._look = self._controls = self._end = self.rest = self._began = self._ping = self.pong = 0.0

    def start_pings(self, now: float, share: float) -> None:
        """Ping from now on, first after this share of the interval."""
        if self._has_pings:
            self._ping = now + share * self._limits.ping_seconds

    def stop_pings(self) -> None:
        """Send no pings, whether they were started or not, and expect no pong."""
        self._has_pings = False
        self._ping = self.pong = 0.0

    def pong_received(self) -> None:
        """Expect no pong."""
        self.pong = 0.0

    def control_received(self, now: float) -> bool:
        """Count a control frame; return False where they come faster than messages may."""
        limits = self._limits
        self._controls = max(self._controls, now) + 1.0 / limits.rate
        return self._controls - now <= limits.burst / limits.rate

    def message_received(self) -> None:
        """Expect nothing: a whole message shows as much as a pong that the client is there."""
        self.rest = self.pong = 0.0

    def message_began(self, now: float) -> bool:
        """Expect the rest of a message, unless it is expected already; return whether this sets a deadline."""
        if self.rest:
            return False
        self._began = now
        self.rest = now + self._limits.message_seconds
        return True

    def message_ended(self) -> None:
        """Expect no rest: nothing is incomplete."""
        self.rest = 0.0

    def reading_resumed(self, now: float) -> None:
        """Expect everything within its whole time from now: it was not read meanwhile."""
        if self.pong:
            self.pong = now + self._limits.pong_seconds
        if self.rest:
            self._began = now
            self.rest = now + self._limits.message_seconds

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
        moments = [moment for moment in (self._ping, self.pong, self.rest, self._look) if moment]
        return min(moments) if moments else None

    def take_due(self, now: float, *, is_reading: bool, received: int = 0, ahead: Ahead = _nothing) -> Due:
        """Return the deadline that has passed, once. `received` are the bytes that have come of an incomplete message.

        A client that is not read cannot be judged, nor its pong while the ping is behind bytes that it is taking:
        `ahead` returns those before a ping that is due now.
        """
        if self._end:
            return Due.END if now >= self._end else Due.NOTHING
        if not is_reading:
            self.reading_resumed(now)
        self._look_ahead(now)
        if self.rest and now >= self.rest:
            limits = self._limits
            self.rest = self._began + limits.message_seconds + received / limits.body_rate
            if now >= self.rest:
                return Due.LATE_MESSAGE
        if self.pong and now >= self.pong:
            if not self.rest:
                return Due.NO_PONG
            self.pong = self.rest  # the pong may stand behind the message
        if self._ping and now >= self._ping:
            # While reading is paused too: a socket that is broken shows it only when it is written to.
            if not self.pong:
                self.pong = now + self._limits.pong_seconds
                self._ahead = ahead()
                self._look = now + _LOOK if self._ahead else 0.0
            self._ping = now + self._limits.ping_seconds
            return Due.PING
        return Due.NOTHING

    def _look_ahead(self, now: float) -> None:
        """Put the pong off while the client takes what is before the ping; at the end of that for the last time."""
        if self._ahead is None:
            return
        if self.pong and self._ahead.have_moved():
            self.pong = now + self._limits.pong_seconds
        if not self.pong or self._ahead.are_taken:
            self._ahead = None
        self._look = now + _LOOK if self._ahead else 0.0
