"""Admission of newcomers: when thousands come at once, they start a few at a time, so that existing clients are served.

A newcomer is served in steps: its TCP connection is accepted, its first request and its first message are handled, the
publications that it missed are read from history. Each step asks here before it starts. The duration of one turn of the
event loop decides how many may start in the next:

- At most `limit` steps start in one turn. The others wait, first come, first served.
- While a publish is on its way (`leave_turns`), turns that start none come between two that start some: a publish takes
  several turns, one for each of its hops, and waits behind newcomers once instead of at every hop.
- After a short time twice as many may start as in that turn, after a long one half as many, and never less than one:
  those who are served already wait for a few milliseconds at most, however many newcomers there are. The time includes
  the turns in between, in which most of the work of a step is done.
- After a long time that started one step only, `limit` steps may start: the time goes to other work (fan-out to
  thousands), which a few steps more do not make much longer, and without which newcomers would hardly get on.
- Where another thread or process had the processor, none starts for two milliseconds: it is short, and existing
  clients, the store and the kernel need it first. So it is while a thread of this process has work of existing clients
  (`let_first`): it needs the interpreter for a moment between any two system calls, and the loop hardly lets go of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from tidewire.support.counters import LimitCounter
from tidewire.support.per_loop import PerLoop

__all__ = ("Admission",)

#: The turns from one that starts steps to the next, while a publish is on its way.
_TURNS = 4
#: Seconds of this thread's processor time in them up to which it is short, and from which it is long.
_SHORT, _LONG = 0.001, 0.002
#: Seconds without the processor from which others need it, and how long newcomers then wait.
_DEPRIVED, _REST = 0.0005, 0.002


class Admission(PerLoop):
    """Starts the steps of newcomers on one event loop, a few in each turn of it."""

    __slots__ = (
        "_allowed",
        "_first",
        "_limits",
        "_on_their_way",
        "_processor_time",
        "_rest",
        "_started",
        "_turns",
        "_waiting",
        "_wall_time",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._limits = LimitCounter.of(loop)
        #: Steps that may start in a turn; a limit that is lower counts.
        self._allowed = 4
        #: Steps started in the last turn that started any; 0 while nothing was started, and then no turn is watched.
        self._started = 0
        #: Turns since then, that one included; when it began, by the clock and by this thread's processor time.
        self._turns = 1
        self._wall_time = self._processor_time = 0.0
        #: The end of a rest, and the limit of steps then.
        self._rest: tuple[asyncio.TimerHandle, int] | None = None
        #: Tell whether a thread has work that comes before newcomers.
        self._first: list[Callable[[], bool]] = []
        #: Tell whether a publish is on its way.
        self._on_their_way: list[Callable[[], bool]] = []
        self._waiting: deque[Callable[[], None]] = deque()

    def leave_turns(self, is_on_its_way: Callable[[], bool]) -> Callable[[], None]:
        """Start nothing in most turns while a publish is on its way; return the function that ends this."""
        self._on_their_way.append(is_on_its_way)
        return lambda: self._on_their_way.remove(is_on_its_way)

    def let_first(self, is_busy: Callable[[], bool]) -> Callable[[], None]:
        """Start nothing while a thread of this process is busy, for a while; return the function that ends this."""
        self._first.append(is_busy)
        return lambda: self._first.remove(is_busy)

    def go_on(self) -> None:
        """End a rest: a thread that was let first has done something."""
        if self._rest is not None:
            rest, limit = self._rest
            rest.cancel()
            self._rest = None
            self._loop.call_soon(self._go_on, limit)  # behind what it has done

    def start(self, step: Callable[[], None], limit: int) -> bool:
        """Start a step now if it may, or else in one of the next turns; return whether it was started now.

        A step must not raise.
        """
        if not self._started:
            self._watch(limit)
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

    def _watch(self, limit: int) -> None:
        """Begin to measure: steps start in this turn."""
        self._turns = 1
        self._wall_time, self._processor_time = time.perf_counter(), time.thread_time()
        self._loop.call_soon(self._next_turn, limit)

    def _next_turn(self, limit: int) -> None:
        """Start steps that wait, as the last turns allow; in some turns none."""
        if not self._waiting:
            self._started = 0
            return
        own = time.thread_time() - self._processor_time
        if self._turns < _TURNS and own <= _LONG and any(is_on_its_way() for is_on_its_way in self._on_their_way):
            self._turns += 1
            self._loop.call_soon(self._next_turn, limit)
            return
        others = time.perf_counter() - self._wall_time - own
        self._allowed = min(limit, self._judge(own) or limit)
        if others > _DEPRIVED or any(is_busy() for is_busy in self._first):
            self._started = limit
            self._rest = self._loop.call_later(_REST, self._go_on, limit), limit
        else:
            self._go_on(limit)

    def _go_on(self, limit: int) -> None:
        self._rest = None
        self._started = min(len(self._waiting), self._allowed)
        self._watch(limit)
        for _ in range(self._started):
            self._waiting.popleft()()

    def _judge(self, own: float) -> int:
        """Return how many steps may start after so much processor time; 0: as many as the limit says."""
        if own <= _SHORT:
            return max(self._allowed, 2 * self._started)
        if own <= _LONG:
            return self._allowed
        return self._started // 2
