"""The time of a test's event loop, which runs by itself and can be advanced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tidewire.errors import ConfigurationError

__all__ = ("VirtualTime",)

#: Seconds of one step: short enough for every timer of a node to come in its turn. After some minutes longer ones do.
_STEP, _LONG_STEP, _PRECISE = 0.5, 5.0, 300.0


class VirtualTime:
    """Advances the time of an event loop. It never goes back, not even after the test, so that timers stay in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._own = loop.time
        self._offset = 0.0

    def now(self) -> float:
        """Return the time of the event loop."""
        return self._loop.time()

    async def advance(self, seconds: float, settle: Callable[[], Awaitable[None]]) -> None:
        """Advance the time in steps, and run due timers after each; raises ConfigurationError on a loop of uvloop."""
        if not seconds >= 0:
            raise ConfigurationError(
                f"advance({seconds!r}) would go back; give a number of seconds that is not negative"
            )
        self._take_over()
        left = float(seconds)
        while left > 0:
            step = min(left, _STEP if left <= _PRECISE else _LONG_STEP)
            self._offset += step
            left -= step
            await settle()
        await settle()

    def _take_over(self) -> None:
        if self._offset:
            return
        if not isinstance(self._loop, asyncio.BaseEventLoop):
            raise ConfigurationError(
                f"the time of {type(self._loop).__module__} cannot be moved; run this test on asyncio's own event loop "
                '(anyio: anyio_backend="asyncio" without use_uvloop)'
            )
        # asyncio's own loops ask this public method for everything that is due
        self._loop.time = lambda: self._own() + self._offset  # type: ignore[method-assign]
