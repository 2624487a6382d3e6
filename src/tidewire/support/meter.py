"""Durations by kind and outcome; a meter that is not asked for is None and costs nothing."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ("BOUNDS", "SAMPLE_SECONDS", "Durations", "Meter")

T = TypeVar("T")
Settle = Callable[[BaseException | None], None]

#: Seconds between two timings of a kind that is too frequent to time each.
SAMPLE_SECONDS = 0.02
#: The upper bounds of the classes of durations, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Durations:
    """How many were how long: one count for each class of `BOUNDS`, one for those beyond, and the sum in seconds."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Meter:
    """The durations of one process, by family, name and outcome; the caller sees to it that there are few of these."""

    __slots__ = ("durations", "is_due")

    #: Whether commands are to be handed to `command`.
    has_spans = False

    def __init__(self) -> None:
        self.durations: dict[tuple[str, str, str], Durations] = {}
        #: Whether the next call of a frequent kind is timed. Only a sample of those is, because timing each, or a look
        #: at the clock for each, would cost a busy server a part of its time.
        self.is_due = True

    def add(self, family: str, name: str, outcome: str, seconds: float) -> None:
        """Count one duration."""
        key = (family, name, outcome)
        found = self.durations.get(key)
        if found is None:
            found = self.durations[key] = Durations()
        found.add(seconds)

    def timed_until(self, family: str, name: str, settle: Settle) -> Settle:
        """Return a function that counts the time until its call, and then calls another with the error or None.

        The caller has seen that one `is_due`; the next one is after a pause.
        """
        self.is_due = False
        asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self._come_due)
        start = time.perf_counter()

        def settled(error: BaseException | None) -> None:
            self.add(family, name, "ok" if error is None else "failed", time.perf_counter() - start)
            settle(error)

        return settled

    def _come_due(self) -> None:
        self.is_due = True

    def handshake(self, kind: str, work: Awaitable[T]) -> Awaitable[T]:
        """Return an awaitable that takes the place of the work of a handshake."""
        return self.timed("handshake", kind, work)

    def command(self, name: str, work: Awaitable[T], connection: str) -> Awaitable[T]:
        """Return an awaitable that takes the place of the whole work of a command, which counts its own duration."""
        return work

    async def timed(self, family: str, name: str, work: Awaitable[T]) -> T:
        """Wait for something and count how long it took: "ok", or "failed" if it raised."""
        start, outcome = time.perf_counter(), "failed"
        try:
            result = await work
            outcome = "ok"
        finally:
            self.add(family, name, outcome, time.perf_counter() - start)
        return result
