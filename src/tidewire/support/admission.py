"""Admission of newcomers: when thousands come at once, they start a few at a time, so that existing clients are served.

A newcomer is served in steps: its TCP connection is accepted, its first request and its first message are handled, the
publications that it missed are read from history. Each step asks here before it starts. The duration of one turn of the
event loop decides how many may start in the next:

- At most `limit` steps start in one turn. The others wait, first come, first served.
- After a short turn twice as many may start as in that turn, after a long one half as many, and never less than one:
  those who are served already wait for a few milliseconds at most, however many newcomers there are.
- After a long turn that started one step only, `limit` steps may start: the time goes to other work (fan-out to
  thousands), which a few steps more do not make much longer, and without which newcomers would hardly get on.
- After a turn in which another thread or process had the processor, none starts for two milliseconds: it is short, and
  existing clients, the store and the kernel need it first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from tidewire.support.counters import LimitCounter
from tidewire.support.per_loop import PerLoop

__all__ = ("Admission",)

#: Seconds of this thread's processor time up to which a turn is short, and from which it is long.
_SHORT, _LONG = 0.001, 0.002
#: Seconds of one turn without the processor from which others need it, and how long newcomers then wait.
_DEPRIVED, _REST = 0.0005, 0.002


class Admission(PerLoop):
    """Starts the steps of newcomers on one event loop, a few in each turn of it."""

    __slots__ = ("_allowed", "_is_resting", "_limits", "_processor_time", "_started", "_waiting", "_wall_time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._limits = LimitCounter.of(loop)
        #: Steps that may start in a turn; a limit that is lower counts.
        self._allowed = 4
        #: Steps started in this turn; 0 while nothing was started, and then no turn is watched.
        self._started = 0
        #: When this turn began, by the clock and by this thread's processor time.
        self._wall_time = self._processor_time = 0.0
        self._is_resting = False
        self._waiting: deque[Callable[[], None]] = deque()

    def start(self, step: Callable[[], None], limit: int) -> bool:
        """Start a step now if it may, or else in one of the next turns; return whether it was started now.

        A step must not raise.
        """
        if not self._started:
            self._wall_time, self._processor_time = time.perf_counter(), time.thread_time()
            self._loop.call_soon(self._next_turn, limit)
        elif self._waiting or self._started >= min(limit, self._allowed):
            self._limits.reached["arrivals"] += 1
            self._waiting.append(step)
            return False
        self._started += 1
        step()
        return True

    async def wait_admitted(self, limit: int) -> None:
        """Wait until a step may start; it starts when this returns."""
        admitted: asyncio.Future[None] = self._loop.create_future()

        def admit() -> None:
            if not admitted.done():
                admitted.set_result(None)

        if not self.start(admit, limit):
            await admitted

    def _next_turn(self, limit: int) -> None:
        """Start steps that wait, as the last turn allows."""
        if not self._waiting:
            self._started = 0
            return
        own, others = self._measure_turn()
        if others > _DEPRIVED and not self._is_resting:
            self._is_resting, self._started = True, limit
            self._loop.call_later(_REST, self._next_turn, limit)
            return
        self._is_resting = False
        self._allowed = min(limit, self._judge(own) or limit)
        self._started = min(len(self._waiting), self._allowed)
        self._loop.call_soon(self._next_turn, limit)
        for _ in range(self._started):
            self._waiting.popleft()()

    def _judge(self, own: float) -> int:
        """Return how many steps may start after a turn of so much processor time; 0: as many as the limit says."""
        if own <= _SHORT:
            return max(self._allowed, 2 * self._started)
        if own <= _LONG:
            return self._allowed
        return self._started // 2

    def _measure_turn(self) -> tuple[float, float]:
        """Return the processor time of the turn that ends, and the time in which this thread had no processor."""
        wall_time, processor_time = self._wall_time, self._processor_time
        self._wall_time, self._processor_time = time.perf_counter(), time.thread_time()
        own = self._processor_time - processor_time
        return own, self._wall_time - wall_time - own
