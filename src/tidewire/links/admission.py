"""A few newcomers at a time: when thousands come at once, those who are there wait for a short turn of the loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from tidewire.links.base import limits_reached
from tidewire.links.perloop import PerLoop

__all__ = ("Admission",)

#: Seconds of a turn that was long.
_LONG = 0.002


class Admission(PerLoop):
    """Lets few steps of newcomers begin in one turn of the loop; the others wait, first come, first served.

    A step is the first request of a TCP connection, the first message of a client, or one read of what a subscriber
    missed. A turn begins one of those that wait, and up to its limit after a long turn: where fan-out fills the turns,
    newcomers get on all the same.
    """

    __slots__ = ("_began", "_begun", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: Steps that this turn has begun (a turn of none needs no end), and when that was.
        self._begun = 0
        self._began = 0.0
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self, step: Callable[[], None], limit: int) -> bool:
        """Do a step now if this turn has begun fewer than `limit`, else in one of the next; say whether it is done.

        A step must not raise.
        """
        if not self._begun:
            self._began = time.perf_counter()
            self._loop.call_soon(self._turn, limit)
        elif self._waiting or self._begun >= limit:
            limits_reached["arrivals"] += 1
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
        """Begin a turn with those who wait."""
        waiting, began = self._waiting, self._began
        if not waiting:
            self._begun = 0
            return
        self._began = time.perf_counter()
        self._begun = min(len(waiting), limit if self._began - began > _LONG else 1)
        self._loop.call_soon(self._turn, limit)
        for _ in range(self._begun):
            waiting.popleft()()
