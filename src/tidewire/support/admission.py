"""Admission of newcomers: when thousands come at once, they start a few at a time, so that existing clients are served.

A newcomer is served in steps: its TCP connection is accepted, its first request and its first message are handled, what
it missed is read from history. Each step asks here before it starts. How many may start in one turn of the event loop
is decided by what the turn before has cost:

- At most `limit` steps start in one turn. The others wait, first come, first served.
- While steps wait, one starts in each turn: those who are served already never wait for more than one.
- After a long turn that started one step only, `limit` steps start: the time goes to other work (fan-out to thousands),
  which a few steps more do not make much longer, and without which newcomers would hardly get on.
- After a turn in which another thread or process had the processor, none starts for two milliseconds: it is short, and
  existing clients, the store and the kernel need it first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from tidewire.support.counters import count_limit
from tidewire.support.per_loop import PerLoop

__all__ = ("Admission",)

#: Seconds of this thread's processor time from which a turn is long.
_LONG = 0.002
#: Seconds of one turn without the processor from which others need it, and how long newcomers then wait.
_DEPRIVED, _REST = 0.0005, 0.002


class Admission(PerLoop):
    """Starts the steps of newcomers on one event loop, a few in each turn of it."""

    __slots__ = ("_is_resting", "_processor_time", "_started", "_waiting", "_wall_time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
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
        elif self._waiting or self._started >= limit:
            count_limit("arrivals")
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
        allowed = limit if own > _LONG and self._started == 1 else 1
        self._started = min(len(self._waiting), allowed)
        self._loop.call_soon(self._next_turn, limit)
        for _ in range(self._started):
            self._waiting.popleft()()

    def _measure_turn(self) -> tuple[float, float]:
        """Return the processor time of the turn that ends, and the time in which this thread had no processor."""
        wall_time, processor_time = self._wall_time, self._processor_time
        self._wall_time, self._processor_time = time.perf_counter(), time.thread_time()
        own = self._processor_time - processor_time
        return own, self._wall_time - wall_time - own
