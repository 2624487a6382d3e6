"""The bytes of all replies that one process reads and encodes at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidewire.limits import Limits
from tidewire.support.counters import count_limit
from tidewire.support.long_steps import LARGE, LongSteps
from tidewire.support.per_loop import PerLoop

__all__ = ("ReplyBudget",)

#: Calls of which that is known, and seconds for which others wait for the first answer.
_NAMES, _FIRST_SECONDS = 1_000, 1.0


class AnswerSizes:
    """Knows which calls have had a large answer: they are made like reads from then on.

    Of a call that nobody has made yet, one is made first, and the others wait for its answer, but not for long.
    """

    __slots__ = ("_first", "_known")

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}
        self._first: dict[str, asyncio.Future[None]] = {}

    def is_small(self, name: str) -> bool:
        """Return whether every answer so far was small, and there was one."""
        return self._known.get(name) is False

    async def wait_known(self, name: str) -> bool:
        """Return whether a call may have a large answer, when that is known, or is not known in time."""
        first = self._first.get(name)
        if first is not None:
            await asyncio.wait([first], timeout=_FIRST_SECONDS)
            if self._first.get(name) is first:  # it takes its time: nobody else waits for it
                del self._first[name]
        elif name not in self._known:
            self._first[name] = asyncio.get_running_loop().create_future()
        return self._known.get(name, False)

    def note(self, name: str, size: int | None) -> None:
        """Take note of an answer of so many bytes, None for none."""
        if size is not None and not self._known.get(name):
            if len(self._known) >= _NAMES:
                self._known.clear()
            self._known[name] = size > LARGE
        first = self._first.pop(name, None)
        if first is not None:
            first.set_result(None)


Waiting = deque[tuple[int, asyncio.Future[None]]]


class ReplyBudget(PerLoop):
    """Lets replies be made as far as the limit `replies_bytes` goes; the others wait, first come, first served.

    Those who read much and those who read little wait in two rows, and are let on from both in turn.
    """

    __slots__ = ("_reserved", "_row", "_rows", "answers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._reserved = 0
        self.answers = AnswerSizes()
        self._rows: tuple[Waiting, Waiting] = (deque(), deque())
        #: The row from which the last one was let on.
        self._row = 0

    @asynccontextmanager
    async def reserve(
        self, limits: Limits, most: int | None = None, *, reads_much: bool = False
    ) -> AsyncIterator[None]:
        """Reserve the bytes of one reply, which is read and encoded inside the block; waits while there are too many.

        `most`: its bytes, where they are not those of a client's reply. One larger than the whole budget has it alone.
        """
        size = min(most or limits.reply_bytes, limits.replies_bytes)
        await self._take(size, limits.replies_bytes, int(reads_much))
        try:
            yield
        finally:
            self._reserved -= size
            self._wake(limits.replies_bytes)

    async def _take(self, size: int, most: int, row: int) -> None:
        if not any(self._rows) and self._reserved + size <= most:
            self._reserved, self._row = self._reserved + size, row
            return
        count_limit("replies_bytes")
        ready: asyncio.Future[None] = self._loop.create_future()
        self._rows[row].append((size, ready))
        try:
            await ready
        except BaseException:
            if ready.done() and not ready.cancelled():  # it was given bytes that it no longer wants
                self._reserved -= size
                self._wake(most)
            raise

    def _wake(self, most: int) -> None:
        while (number := self._next_row()) is not None:
            size, ready = self._rows[number][0]
            if self._reserved + size > most:
                return
            self._row = number
            self._rows[number].popleft()
            self._reserved += size
            ready.set_result(None)

    def _next_row(self) -> int | None:
        """Return the row from which the next one is let on, or None when nobody waits."""
        for number in (1 - self._row, self._row):
            row = self._rows[number]
            while row and row[0][1].done():  # cancelled
                row.popleft()
            if row:
                return number
        return None

    async def wait_turn(self, size: int = LARGE) -> None:
        """Wait for a turn of the loop in which a reply of so many bytes may be made: of large ones, one in a turn."""
        if size >= LARGE:
            await LongSteps.of(self._loop).wait()
