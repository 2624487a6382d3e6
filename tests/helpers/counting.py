"""What the running event loop has counted."""

from __future__ import annotations

import asyncio
from collections import Counter

from tidewire.support.counters import LimitCounter


def reached() -> Counter[str]:
    """Return how often each limit was reached on this loop."""
    return LimitCounter.of(asyncio.get_running_loop()).reached
