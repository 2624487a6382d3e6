"""One timer for all connections of an event loop, so that an idle connection needs none of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from tidewire.support.per_loop import PerLoop

__all__ = ("Rider", "Wheel")

logger = logging.getLogger("tidewire")

#: Seconds of one notch. A deadline is met up to so much late.
NOTCH = 0.25
#: A wheel that comes later than this was held up with its loop: what peers sent is read before they are judged.
LATE = 1.0


class Rider(Protocol):
    """Something with a next moment; it rides on at most one notch of one wheel."""

    #: The notch it rides on; 0 when on none. Kept by the wheel.
    notch: int

    def turn(self, now: float) -> float | None:
        """Do what is due at `now` (the loop's time) and return the seconds until the next turn; None: no more."""


class Wheel(PerLoop):
    """Calls each rider when its time has come. It turns only while somebody rides.

    A rider's turn must not raise; one that does is called no more.
    """

    __slots__ = ("_at", "_notches", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._notches: dict[int, set[Rider]] = {}
        self._at = 0
        self._timer: asyncio.TimerHandle | None = None

    def ride(self, rider: Rider, seconds: float) -> None:
        """Call the rider's `turn` in so many seconds, instead of when it was to be called before."""
        self.leave(rider)
        rider.notch = notch = int((self._loop.time() + seconds) / NOTCH) + 1
        riders = self._notches.get(notch)
        if riders is None:
            riders = self._notches[notch] = set()
        riders.add(rider)
        if self._timer is None:
            self._at = int(self._loop.time() / NOTCH)
            self._wind()

    def leave(self, rider: Rider) -> None:
        """Call the rider no more."""
        if not rider.notch:
            return
        riders = self._notches.get(rider.notch)
        rider.notch = 0
        if riders is not None:
            riders.discard(rider)

    def _wind(self) -> None:
        self._timer = self._loop.call_at((self._at + 1) * NOTCH, self._turn)

    def _turn(self) -> None:
        now = self._loop.time()
        reached = int(now / NOTCH)
        if now - (self._at + 1) * NOTCH > LATE:
            self._at = reached
            self._hold_back(reached)
        else:
            while self._at < reached:
                self._at += 1
                self._turn_notch(self._notches.pop(self._at, ()), now)
        if self._notches:
            self._wind()
        else:
            self._timer = None

    def _hold_back(self, reached: int) -> None:
        missed = [notch for notch in self._notches if notch <= reached]
        for notch in missed:
            for rider in tuple(self._notches.pop(notch)):
                rider.notch = 0
                self.ride(rider, 2 * NOTCH)

    def _turn_notch(self, riders: set[Rider] | tuple[()], now: float) -> None:
        for rider in tuple(riders):
            # An earlier rider's turn may have ended or moved this one.
            if rider.notch != self._at:
                continue
            rider.notch = 0
            try:
                seconds = rider.turn(now)
            except Exception:  # the others' heartbeats go on
                logger.exception("a connection's heartbeat failed, and ends")
                continue
            if seconds is not None:
                self.ride(rider, seconds)
