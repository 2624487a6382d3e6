"""Counts by key, and rates by key: those of one process. `shared_counts` has those of all processes of a machine."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping

__all__ = ("Counts", "affordable")

#: Rates that are remembered; those that are paid off are forgotten when there are more.
_RATES = 10_000


class Counts:
    """The number of things under each key now, and the part of its rate that each key has taken."""

    def __init__(self) -> None:
        #: The counts that this process has added and not removed.
        self.own: Counter[str] = Counter()
        #: The counts of other machines, as far as they are known.
        self.elsewhere: Mapping[str, int] = {}
        #: The counts that were taken since somebody has looked, if somebody looks.
        self.taken: Counter[str] | None = None
        #: One name for all processes that share these counts.
        self.name = b""
        self._paid_off: dict[str, float] = {}

    def add(self, key: str, most: float = math.inf) -> bool:
        """Add one under a key, if there are fewer than `most`."""
        if self.own.get(key, 0) + self.elsewhere.get(key, 0) >= most:
            return False
        self.own[key] += 1
        return True

    def remove(self, key: str) -> None:
        """Remove one that was added."""
        self.own[key] -= 1
        if self.own[key] <= 0:
            del self.own[key]

    def take(self, key: str, wanted: int, rate: float, burst: float) -> int:
        """Take up to `wanted` of a key that gets `rate` a second and holds `burst` at most; return how many."""
        granted = self._charge(key, wanted, rate, burst)
        if self.taken is not None:
            self.taken[key] += granted
        return granted

    def charge(self, key: str, count: int, rate: float) -> None:
        """Take as many as another machine has taken, even if fewer are left: then nobody gets more for a time."""
        self._charge(key, count, rate, math.inf)

    def _charge(self, key: str, wanted: int, rate: float, burst: float) -> int:
        now = time.monotonic()
        due = max(now, self._paid_off.get(key, 0.0))
        granted = affordable(due - now, wanted, rate, burst)
        if granted:
            if len(self._paid_off) >= _RATES:
                self._paid_off = {other: at for other, at in self._paid_off.items() if at > now}
            self._paid_off[key] = due + granted / rate
        return granted

    def wait(self, key: str, rate: float, burst: float) -> float:
        """Return the seconds until one of a key can be taken that gets `rate` a second and holds `burst` at most."""
        return max(0.0, self._debt(key) - (burst - 1) / rate)

    def _debt(self, key: str) -> float:
        return max(0.0, self._paid_off.get(key, 0.0) - time.monotonic())

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the processes that share these counts."""
        return True

    def aclose(self) -> None:
        """Leave the processes that share these counts."""


def affordable(debt: float, wanted: int, rate: float, burst: float) -> int:
    """Return how many of `wanted` a key may take that is in debt for so many seconds."""
    return wanted if burst == math.inf else max(0, min(wanted, math.floor(burst - debt * rate + 1e-6)))
