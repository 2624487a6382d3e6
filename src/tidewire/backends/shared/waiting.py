"""The waiting room of publishes: how many may wait for a store, for how long, and how each is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Generic, TypeVar

from tidewire.errors import BadRequest, NotPublished, PublishError, PublishUnconfirmed
from tidewire.messages import Position, PublishRequest
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("WAITING_BYTES", "WAITING_COUNT", "WaitingRoom", "Write", "not_published", "unconfirmed")

#: Publishes, and their bytes, that may wait for one server.
WAITING_COUNT = 100_000
WAITING_BYTES = 64 * 1_048_576
#: Bytes that a publish costs beside its data, about.
_COST = 256
#: Seconds between looks for publishes that have waited too long.
_SWEEP = 0.1


def _do_nothing() -> None:
    pass


def not_published(reason: str) -> NotPublished:
    """Return the error of a publish that was surely not kept."""
    return NotPublished(f"not published: {reason}")


def unconfirmed(reason: str) -> PublishUnconfirmed:
    """Return the error of a publish of which nobody knows whether it was kept."""
    return PublishUnconfirmed(f"not confirmed: {reason}; publish it again with the same key")


class Write:
    """One publish on its way to a store, and, once it has entered its room, the future that its caller awaits."""

    __slots__ = ("_seconds", "deadline", "future", "is_sent", "request", "size")

    future: asyncio.Future[Position]
    deadline: float

    def __init__(self, request: PublishRequest, seconds: float) -> None:
        self.request = request
        self._seconds = seconds
        self.size = len(request.data) + len(request.meta) + _COST
        #: The store may have it.
        self.is_sent = False

    def begin(self, loop: asyncio.AbstractEventLoop, now: float) -> asyncio.Future[Position]:
        """Begin to wait, and return the future."""
        self.deadline = now + self._seconds
        future = self.future = loop.create_future()
        return future

    def sent(self) -> None:
        """Note that the store may have it from now on."""
        self.is_sent = True


W = TypeVar("W", bound=Write)


class WaitingRoom(Generic[W]):
    """All publishes of one connection that have no answer yet, in the order in which they came.

    The publishes of one turn of the loop are handed over together, by `hand_over`. One that reaches its deadline is
    settled with the error that `late` returns. `watch` is called with the time at each look for late ones; while it
    returns True, the looks go on even if nothing waits.
    """

    def __init__(
        self,
        shown: str,
        *,
        hand_over: Callable[[list[W]], None],
        late: Callable[[W], PublishError],
        watch: Callable[[float], bool] = lambda now: False,
    ) -> None:
        self._shown = shown
        self._hand_over = hand_over
        self._late = late
        self._watch = watch
        self._waiting: dict[W, None] = {}
        self._bytes = 0
        self._turn: list[W] = []
        #: The loop of this turn, and when the turn brought its first publish: to ask for them is a system call.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now = 0.0
        self._sweeping: asyncio.TimerHandle | None = None
        #: Ends that newcomers leave turns to the publishes; as long as there are looks.
        self._take_all_turns: Callable[[], None] = _do_nothing

    @property
    def is_used(self) -> bool:
        """Some publishes wait for an answer."""
        return bool(self._waiting)

    def __contains__(self, write: W) -> bool:
        return write in self._waiting

    def enter(self, write: W) -> asyncio.Future[Position]:
        """Take a publish and return its future; raises NotPublished when too many wait."""
        if len(self._waiting) >= WAITING_COUNT or self._bytes >= WAITING_BYTES:
            raise self._full()
        self._waiting[write] = None
        self._bytes += write.size
        loop = self._loop
        if loop is None or not self._turn:
            loop = self._loop = asyncio.get_running_loop()
            self._now = loop.time()
            loop.call_soon(self.flush)
        self._turn.append(write)
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)
            self._take_all_turns = Admission.of(loop).leave_turns(lambda: self.is_used)
        return write.begin(loop, self._now)

    def _full(self) -> NotPublished:
        count = len(self._waiting)
        count_limit("publishes_waiting" if count >= WAITING_COUNT else "publish_bytes_waiting")
        return NotPublished(
            f"{count} publishes with {self._bytes} bytes wait for {self._shown} already "
            f"(the limit is {WAITING_COUNT}, or {WAITING_BYTES} bytes); publish less, or use a faster store"
        )

    def flush(self) -> None:
        """Hand over the writes of this turn of the loop."""
        if self._turn:
            turn, self._turn = self._turn, []
            self._hand_over(turn)

    def settle(self, write: W, result: Position | PublishError | BadRequest) -> None:
        """Answer a publish, if its caller still waits; each caller gets an error of its own."""
        self.release(write)
        future = write.future
        if future.done():
            return
        if isinstance(result, Position):
            future.set_result(result)
        else:
            future.set_exception(type(result)(*result.args))

    def fail(self, writes: Iterable[W], error: PublishError) -> None:
        """Answer several publishes with one error."""
        for write in writes:
            self.settle(write, error)

    def fail_all(self, error: Callable[[W], PublishError]) -> None:
        """Answer everything that waits with an error."""
        self._turn.clear()
        for write in tuple(self._waiting):
            self.settle(write, error(write))

    def release(self, write: W) -> None:
        """Forget a publish that is answered, or that its caller has given up."""
        if write in self._waiting:
            del self._waiting[write]
            self._bytes -= write.size

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        is_watching = self._watch(now)
        for write in list(takewhile(lambda write: write.deadline <= now, self._waiting)):
            self.settle(write, self._late(write))
        if is_watching or self._waiting:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)
        else:
            self.close()

    async def wait_empty(self) -> None:
        """Hand over the waiting writes and return when all are answered, which takes no longer than a deadline."""
        self.flush()
        futures = [write.future for write in self._waiting]
        if futures:
            await asyncio.wait(futures)

    def close(self) -> None:
        """Stop to look for late publishes."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
            self._take_all_turns()
