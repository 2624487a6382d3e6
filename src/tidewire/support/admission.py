"""A few newcomers at a time: when thousands come at once, those who are there wait for a short turn of the loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from tidewire.support.counters import count_limit
from tidewire.support.per_loop import PerLoop

__all__ = ("Admission",)

#: Seconds of this thread's processor time in a turn that was long.
_LONG = 0.002
#: Seconds of a turn in which another had the processor, and of the rest that follows.
_CROWDED, _REST = 0.0005, 0.002


class Admission(PerLoop):
    """Lets few steps of newcomers begin in one turn of the loop; the others wait, first come, first served.

    A step is a TCP connection or its first request, the first message of a client, or one read of what a subscriber
    missed. A turn begins one of those that wait, and up to its limit after a turn that was long although it began but
    one: where fan-out fills the turns, newcomers get on all the same.
    """

    __slots__ = ("_began", "_begun", "_is_resting", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: Steps that this turn has begun (a turn of none needs no end), and when that was.
        self._begun = 0
        self._began = (0.0, 0.0)
        self._is_resting = False
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self, step: Callable[[], None], limit: int) -> bool:
        """Do a step now if this turn has begun fewer than `limit`, else in one of the next; say whether it is done.

        A step must not raise.
        """
        if not self._begun:
            self._began = time.perf_counter(), time.thread_time()
            self._loop.call_soon(self._turn, limit)
        elif self._waiting or self._begun >= limit:
            count_limit("arrivals")
            self._waiting.append(step)
            return False
        self._begun += 1
        step()
        return True

    async def turn(self, limit: int) -> None:
        """Wait until a step may begin."""
        admitted: asyncio.Future[None] = self._loop.create_future()

        def admit() -> None:
            if not admitted.done():
                admitted.set_result(None)

        if not self.begin(admit, limit):
            await admitted

    def _turn(self, limit: int) -> None:
        """Begin a turn with those who wait; where others want the processor, they have it first."""
        waiting, (wall, spent) = self._waiting, self._began
        if not waiting:
            self._begun = 0
            return
        self._began = time.perf_counter(), time.thread_time()
        own = self._began[1] - spent
        if not self._is_resting and self._began[0] - wall - own > _CROWDED:
            self._begun, self._is_resting = limit, True
            self._loop.call_later(_REST, self._turn, limit)
            return
        self._is_resting = False
        is_filled = self._begun == 1 and own > _LONG
        self._begun = min(len(waiting), limit if is_filled else 1)
        self._loop.call_soon(self._turn, limit)
        for _ in range(self._begun):
            waiting.popleft()()
