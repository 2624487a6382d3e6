"""Long steps, of which a turn of the loop takes one: large replies that are read, merged and encoded."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from tidewire.support.per_loop import PerLoop

__all__ = ("LARGE", "LongSteps")

#: Bytes of a reply from which it is a long step.
LARGE = 65_536
#: Seconds of this thread's processor time from which a turn is long, and of the longest rest after one.
_LONG, _REST = 0.004, 0.05


class LongSteps(PerLoop):
    """Lets one step begin in each turn, first come, first served; after a long turn comes as long a rest.

    So a client that is served meanwhile waits for one step, however many there are, and they take half the time at
    most. Newcomers have their own turns (`Admission`): neither waits behind the other.
    """

    __slots__ = ("_began", "_is_busy", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_busy = False
        #: This thread's processor time when the turn began.
        self._began = 0.0

    async def wait(self) -> None:
        """Wait until a step may begin; it begins when this returns."""
        if self._is_busy:
            admitted: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(admitted)
            await admitted
        else:
            self._begin()

    def _begin(self) -> None:
        self._is_busy = True
        self._began = time.thread_time()
        self._loop.call_soon(self._end)

    def _end(self) -> None:
        taken = time.thread_time() - self._began
        if taken > _LONG:
            self._loop.call_later(min(taken, _REST), self._next)
        else:
            self._next()

    def _next(self) -> None:
        while self._waiting:
            admitted = self._waiting.popleft()
            if not admitted.done():  # cancelled
                admitted.set_result(None)
                self._begin()
                return
        self._is_busy = False
