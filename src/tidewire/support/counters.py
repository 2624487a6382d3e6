"""The one counter of limits: how often each was reached, by its name."""

from __future__ import annotations

import asyncio
from collections import Counter

from tidewire.support.per_loop import PerLoop

__all__ = ("LimitCounter", "count_limit")


class LimitCounter(PerLoop):
    """How often each limit was reached on one event loop, by any link, store or node of it."""

    __slots__ = ("reached",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.reached: Counter[str] = Counter()


def count_limit(name: str) -> None:
    """Count that a limit was reached, on the running event loop; without one, nobody asks for the figure."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    LimitCounter.of(loop).reached[name] += 1
