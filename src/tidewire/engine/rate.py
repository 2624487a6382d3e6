"""How many messages a user may send, over all connections and all processes of a machine."""

from __future__ import annotations

from tidewire.options import Limits
from tidewire.support.counts import Counts

__all__ = ("UserRate", "burst_of_user", "rate_of_user")

#: The rate of a user as a multiple of a connection's, where no limit says otherwise.
_CONNECTIONS = 5
#: A fast user's messages are taken from the shared counts for so many seconds at once.
_AHEAD_SECONDS = 0.02


def rate_of_user(limits: Limits) -> float:
    """Return how many messages a second a user may send."""
    return limits.rate_per_user or limits.rate * _CONNECTIONS


def burst_of_user(limits: Limits) -> float:
    """Return how many messages a user may send at once."""
    return max(1.0, limits.burst * rate_of_user(limits) / limits.rate)


class UserRate:
    """A token bucket that the connections of one user share; here are the tokens that this process has taken from it.

    A process takes one token at a time, and more while it uses them up before they would have come back by themselves:
    then they count no more.
    """

    __slots__ = ("_burst", "_counts", "_most", "_tokens", "_until", "_user", "_wanted", "rate")

    def __init__(self, limits: Limits, user: str, counts: Counts) -> None:
        self.rate = rate_of_user(limits)
        self._burst = burst_of_user(limits)
        self._counts = counts
        self._user = user
        self._most = max(1, int(self.rate * _AHEAD_SECONDS))
        self._wanted = 1
        self._tokens = 0
        self._until = 0.0

    def take(self, cost: int, now: float) -> bool:
        """Take a message from the bucket, if there is room for one."""
        if self._tokens < 1 or now > self._until:
            self._wanted = min(2 * self._wanted, self._most) if now <= self._until else 1
            self._tokens = min(self._tokens, 0)
            wanted = self._wanted - self._tokens
            self._tokens += self._counts.take(f"rate {self._user}", wanted, self.rate, self._burst)
            self._until = now + wanted / self.rate
            if self._tokens < 1:
                return False
        self._tokens -= cost
        return True
