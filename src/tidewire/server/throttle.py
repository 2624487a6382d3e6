"""Counts failures by key and says when enough is enough; pure, the time is an argument."""

from __future__ import annotations

from collections import OrderedDict, deque

__all__ = ("Throttle",)


class Throttle:
    """At most `failures` within `seconds` for one key; the oldest keys are forgotten beyond `keys`."""

    __slots__ = ("_failed", "_failures", "_keys", "_seconds")

    def __init__(self, failures: int = 10, seconds: float = 60.0, keys: int = 10_000) -> None:
        self._failures, self._seconds, self._keys = failures, seconds, keys
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Return for how many seconds the key may not try again; 0: it may."""
        failed = self._failed.get(key)
        if failed is None or len(failed) < self._failures:
            return 0.0
        return max(0.0, failed[0] + self._seconds - now)

    def fail(self, key: str, now: float) -> None:
        """Count one failure."""
        failed = self._failed.setdefault(key, deque(maxlen=self._failures))
        self._failed.move_to_end(key)
        failed.append(now)
        if len(self._failed) > self._keys:
            self._failed.popitem(last=False)

    def forget(self, key: str) -> None:
        """Forget the failures of a key."""
        self._failed.pop(key, None)
