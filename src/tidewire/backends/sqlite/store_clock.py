"""The clock by which a store measures ages: it never jumps, even if the wall clock does."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

__all__ = ("Reading", "StoreClock", "SystemClock")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The clocks of this machine; a test replaces it by one that it turns by hand."""

    def wall(self) -> float:
        """Return seconds since 1970; may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow, the same for all processes since the machine's start."""
        return time.monotonic()

    def boot(self) -> str:
        """Return the name of this start of the machine, "" where the system has none."""
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return ""


class Reading(msgspec.Struct, frozen=True):
    """One moment on all clocks, as the store remembers it."""

    clock: float
    monotonic: float
    wall: float
    boot: str


class StoreClock:
    """Seconds of a store: they go on with the monotonic clock, and over a restart of the machine with the wall clock.

    All processes of one machine agree. A wall clock that jumps forward ages nothing, and one that jumps backward makes
    nothing younger.
    """

    def __init__(self, system: SystemClock) -> None:
        self._system = system
        self._boot = system.boot()
        self._base = system.wall() - system.monotonic()

    def now(self) -> float:
        """Return the store's time, for ages alone."""
        return self._base + self._system.monotonic()

    def wall(self) -> float:
        """Return the time for people: seconds since 1970."""
        return self._system.wall()

    def reading(self) -> Reading:
        """Return this moment, for the store to remember."""
        monotonic = self._system.monotonic()
        return Reading(self._base + monotonic, monotonic, self._system.wall(), self._boot)

    def go_on_from(self, last: Reading) -> bool:
        """Go on from the time that the store remembers; True when the machine was restarted since, so remember anew."""
        monotonic = self._system.monotonic()
        if self._boot and last.boot == self._boot:
            self._base = last.clock - last.monotonic
            return False
        away = max(0.0, self._system.wall() - last.wall)
        self._base = last.clock + away - monotonic
        return True
