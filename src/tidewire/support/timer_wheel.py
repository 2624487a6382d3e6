"""One timer for all connections of an event loop, so that an idle connection needs none of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from tidewire.support.per_loop import PerLoop

__all__ = ("Timer", "TimerWheel")

logger = logging.getLogger("tidewire")

#: Seconds that one slot stands for; a timer is called at most so much late.
SLOT_SECONDS = 0.25
#: Seconds of delay from which on the loop must have been blocked. Timers then wait for two slots more, so that the loop
#: reads the messages of clients before they are judged.
BLOCKED_SECONDS = 1.0


class Timer(Protocol):
    """An object that is called after a time; it is in at most one slot of one wheel."""

    #: The slot that it is in, or 0. Written by the wheel alone.
    timer_slot: int

    def on_timer(self, now: float) -> float | None:
        """Run the step that is due at `now` (the loop's time); return the seconds until the next call, if any."""


class TimerWheel(PerLoop):
    """Calls each timer when its time has come (a timer wheel, hashed by time). It runs only while it has timers.

    `on_timer` must not raise; a timer that does is not called again.
    """

    __slots__ = ("_current", "_handle", "_slots")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._slots: dict[int, set[Timer]] = {}
        #: The last slot whose timers were called.
        self._current = 0
        self._handle: asyncio.TimerHandle | None = None

    def schedule(self, timer: Timer, seconds: float) -> None:
        """Call a timer after so many seconds, instead of when it was to be called before."""
        slot = int((self._loop.time() + seconds) / SLOT_SECONDS) + 1
        if slot == timer.timer_slot:
            return
        self.cancel(timer)
        timer.timer_slot = slot
        timers = self._slots.get(slot)
        if timers is None:
            timers = self._slots[slot] = set()
        timers.add(timer)
        if self._handle is None:
            self._current = int(self._loop.time() / SLOT_SECONDS)
            self._wait()

    def cancel(self, timer: Timer) -> None:
        """Do not call a timer any more."""
        if not timer.timer_slot:
            return
        timers = self._slots.get(timer.timer_slot)
        timer.timer_slot = 0
        if timers is not None:
            timers.discard(timer)

    def _wait(self) -> None:
        self._handle = self._loop.call_at((self._current + 1) * SLOT_SECONDS, self._advance)

    def _advance(self) -> None:
        now = self._loop.time()
        reached = int(now / SLOT_SECONDS)
        if now - (self._current + 1) * SLOT_SECONDS > BLOCKED_SECONDS:
            self._current = reached
            self._postpone(reached)
        else:
            while self._current < reached:
                self._current += 1
                self._call(self._slots.pop(self._current, ()), now)
        if self._slots:
            self._wait()
        else:
            self._handle = None

    def _postpone(self, reached: int) -> None:
        """Schedule again the timers that the blocked loop has missed."""
        missed = [slot for slot in self._slots if slot <= reached]
        for slot in missed:
            for timer in tuple(self._slots.pop(slot)):
                timer.timer_slot = 0
                self.schedule(timer, 2 * SLOT_SECONDS)

    def _call(self, timers: set[Timer] | tuple[()], now: float) -> None:
        for timer in tuple(timers):
            # An earlier timer may have cancelled or moved this one.
            if timer.timer_slot != self._current:
                continue
            timer.timer_slot = 0
            try:
                seconds = timer.on_timer(now)
            except Exception:  # the other timers are still called
                logger.exception("a connection's timer failed, and is not called again")
                continue
            if seconds is not None:
                self.schedule(timer, seconds)
