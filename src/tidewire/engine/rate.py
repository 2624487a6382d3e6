"""How many messages a user may send, over all connections of a process."""

from __future__ import annotations

from tidewire.options import Limits

__all__ = ("UserRate",)

#: The rate of a user as a multiple of a connection's, where no limit says otherwise.
_CONNECTIONS = 5


class UserRate:
    """A token bucket that the connections of one user share."""

    __slots__ = ("_allowance", "_at", "_burst", "rate")

    def __init__(self, limits: Limits) -> None:
        self.rate = limits.rate_per_user or limits.rate * _CONNECTIONS
        self._burst = self._allowance = max(1.0, limits.burst * self.rate / limits.rate)
        self._at = 0.0

    def take(self, cost: int, now: float) -> bool:
        """Take a message from the bucket, if there is room for one."""
        self._allowance = min(self._burst, self._allowance + (now - self._at) * self.rate)
        self._at = now
        if self._allowance < 1.0:
            return False
        self._allowance -= cost
        return True
