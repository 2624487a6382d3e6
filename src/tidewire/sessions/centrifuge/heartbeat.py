"""The deadlines of a session: its pings, their pongs, and the ends of its tokens; all on one shared wheel."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol as TypingProtocol

from tidewire.engine.connection import Connection
from tidewire.limits import Limits
from tidewire.links.bytes_ahead import BytesAhead
from tidewire.messages import WireMessage
from tidewire.protocols.centrifuge.codes import NO_PONG, STALE, Malformed, MalformedFrame
from tidewire.support.counters import count_limit
from tidewire.support.timer_wheel import TimerWheel

__all__ = ("Heartbeat",)

#: The farthest that an expiry is looked for: some are years away.
_LOOK_SECONDS = 3_600.0
#: Seconds between looks at the bytes before a ping.
_LOOK_AHEAD = 1.0


class Expiring(TypingProtocol):
    """A holder of tokens that end."""

    def next_expiry(self) -> float | None:
        """Return when the first of them ends for good, by the loop's clock."""

    def expire(self, now: float) -> None:
        """End the subscriptions and the connection that have expired."""


class _Nothing:
    """Has no tokens."""

    def next_expiry(self) -> float | None:
        return None

    def expire(self, now: float) -> None:
        return


_NOTHING = _Nothing()


class Heartbeat:
    """The timer (support.timer_wheel.Timer) of one session, from its first byte to its last."""

    __slots__ = (
        "_ahead",
        "_connection",
        "_expiring",
        "_limits",
        "_loop",
        "_ping",
        "_ping_due",
        "_pong_due",
        "_stale_due",
        "timer_slot",
    )

    def __init__(self, connection: Connection, limits: Limits, expiring: Expiring) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._limits = limits
        self._expiring = expiring
        self._ping: WireMessage | None = None
        #: The bytes before the ping whose pong is due, while the client takes them.
        self._ahead: BytesAhead | None = None
        self._ping_due = self._pong_due = 0.0
        self._stale_due = self._loop.time() + limits.auth_seconds
        self.timer_slot = 0

    def begin(self, ping: WireMessage | None, *, is_answered: bool) -> None:
        """Begin to ping a client that has connected (None: it is not pinged)."""
        self._stale_due = 0.0
        seconds = self._limits.ping_seconds
        if ping is not None and seconds > 0:
            self._ping = ping
            self._ping_due = self._loop.time() + seconds * random.uniform(0.5, 1.0)
            self._pong_due = 0.0 if is_answered else -1.0
        self.schedule()

    def pong(self) -> None:
        """Take the answer to a ping; raises MalformedFrame when none was due."""
        if self._pong_due <= 0:
            raise MalformedFrame(Malformed.UNASKED_PONG)
        self._pong_due, self._ahead = 0.0, None

    def stop(self) -> None:
        """Cancel the timer."""
        TimerWheel.of(self._loop).cancel(self)
        self._expiring = _NOTHING  # it holds this one: together they would outlive their connection

    def schedule(self) -> None:
        """Look at the deadlines anew: the end of a token has changed."""
        seconds = self._seconds(self._loop.time())
        if seconds is not None:
            TimerWheel.of(self._loop).schedule(self, seconds)

    def _seconds(self, now: float) -> float | None:
        first = self._stale_due or self._ping_due  # a client that has not connected is not pinged
        if 0 < self._pong_due < first:
            first = self._pong_due
        if self._ahead is not None:
            first = min(first, now + _LOOK_AHEAD)
        expiry = self._expiring.next_expiry()
        if expiry is not None:
            expiry = min(expiry, now + _LOOK_SECONDS)
            first = min(first, expiry) if first else expiry
        return max(0.0, first - now) if first else None

    def on_timer(self, now: float) -> float | None:
        """Do the steps that are due."""
        connection = self._connection
        if connection.is_closed:
            return None
        if self._stale_due and now >= self._stale_due:
            count_limit("auth_seconds")
            connection.end(STALE)
            return None
        if self._ahead is not None:
            if self._ahead.have_moved():
                self._pong_due = now + self._limits.protocol_pong_seconds
            if self._ahead.are_taken:
                self._ahead = None
        if self._pong_due > 0 and now >= self._pong_due:
            if not (connection.has_messages or connection.link.paused):  # else it may be among unread bytes
                count_limit("protocol_pong_seconds")
                connection.end(NO_PONG)
                return None
            self._pong_due = now + self._limits.protocol_pong_seconds
        if self._ping is not None and now >= self._ping_due:
            self._ping_due = now + self._limits.ping_seconds
            if not self._pong_due:
                self._pong_due = now + self._limits.protocol_pong_seconds
                self._ahead = connection.link.bytes_ahead()
            connection.write(self._ping)
        self._expiring.expire(now)
        return None if connection.is_closed else self._seconds(now)
