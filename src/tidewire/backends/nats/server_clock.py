"""The store's time, told by this process's clock that only goes forward."""

from __future__ import annotations

import time

__all__ = ("StoreClock",)


class StoreClock:
    """Seconds since 1970 as the server counts them; before the first `set`, as this machine does."""

    __slots__ = ("_ahead",)

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def set(self, store_time: float) -> None:
        """Take note of the server's time, which is now."""
        self._ahead = store_time - time.monotonic()

    def now(self) -> float:
        """Return the store's time."""
        return time.monotonic() + self._ahead
