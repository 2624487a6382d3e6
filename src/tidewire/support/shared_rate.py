"""A rate that several processes share."""

from __future__ import annotations

from tidewire.support.key_counts import Counts

__all__ = ("SharedRate",)

#: Where much is taken, it is taken from the shared counts for so many seconds at once.
_AHEAD_SECONDS = 0.02


class SharedRate:
    """A token bucket under a key of shared counts; here are the tokens that this process has taken from it.

    A process takes one token at a time, and more while it uses them up before they would have come back by themselves:
    then they count no more. Messages slower than the rate are paid for together, some of them later: a process owes a
    few tokens at most, and lets nobody pass before it has paid.
    """

    __slots__ = ("_burst", "_counts", "_key", "_most", "_tokens", "_until", "_wanted", "rate")

    def __init__(self, counts: Counts, key: str, rate: float, burst: float) -> None:
        self._counts = counts
        self._key = key
        self.rate = rate
        self._burst = burst
        self._most = max(1, int(self.rate * _AHEAD_SECONDS))
        self._wanted = 1
        self._tokens = 0
        self._until = 0.0

    def take(self, cost: int, now: float) -> bool:
        """Take so many tokens from the bucket, if there is one."""
        if now > self._until and min(self._tokens, 0) - cost > -self._most:
            self._tokens = min(self._tokens, 0) - cost
            self._until = now + cost / self.rate
            return True
        if self._tokens < 1 or now > self._until:
            self._wanted = min(2 * self._wanted, self._most) if now <= self._until else 1
            self._tokens = min(self._tokens, 0)
            wanted = self._wanted - self._tokens
            self._tokens += self._counts.take(self._key, wanted, self.rate, self._burst)
            self._until = now + wanted / self.rate
            if self._tokens < 1:
                return False
        self._tokens -= cost
        return True
