"""Bounds the bytes of a channel's history, in stores that are asked for it: as it grows, the oldest go."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from tidewire.errors import StoreUnavailable
from tidewire.messages import PublishRequest
from tidewire.support.counters import count_limit

__all__ = ("Growth", "StoreBound", "size_of")

logger = logging.getLogger("tidewire")

#: A channel's size is measured when it has grown by its limit divided by this.
_PARTS = 4
#: Seconds between two looks at the size of a store, and after one that has removed something.
LOOK_SECONDS, _AGAIN = 5.0, 0.5
#: Channels whose growth is remembered, and bytes for which a publication counts beside its data.
_CHANNELS, _COST = 100_000, 64


def size_of(request: PublishRequest) -> int:
    """Return the bytes for which a publication counts."""
    return len(request.data) + len(request.meta) + _COST


class Growth:
    """Knows how much each channel has grown by this node.

    `bound` removes the oldest publications of a channel beyond so many bytes, and returns whether there were any; it
    raises StoreUnavailable. A reader that wanted them is told, as after a removal on request.
    """

    def __init__(self, limit: int, bound: Callable[[str, int], Awaitable[bool]]) -> None:
        self._limit = limit
        self._part = limit // _PARTS
        self._bound = bound
        self._grown: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def add(self, request: PublishRequest) -> None:
        """Take note of a publication."""
        channel, grown = request.channel, self._grown
        size = grown.get(channel, 0) + size_of(request)
        if len(grown) >= _CHANNELS:
            grown.clear()
        grown[channel] = size
        if size > self._part and channel not in self._running:
            self._begin(channel)

    def _begin(self, channel: str) -> None:
        self._grown.pop(channel, None)
        self._running[channel] = task = asyncio.get_running_loop().create_task(self._apply(channel))
        task.add_done_callback(lambda done: self._ended(channel, done))

    def _ended(self, channel: str, task: asyncio.Task[None]) -> None:
        del self._running[channel]
        if not task.cancelled() and self._grown.get(channel, 0) > self._part:  # it has grown meanwhile
            self._begin(channel)

    async def _apply(self, channel: str) -> None:
        try:
            if await self._bound(channel, self._limit):
                count_limit("channel_history_bytes")
        except StoreUnavailable as error:
            logger.debug("the history of %r was not bounded: %s", channel, error)

    async def aclose(self) -> None:
        """Bound no more."""
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class StoreBound:
    """Looks now and then how much a whole store keeps.

    `bound` removes the oldest publications of all channels beyond so many bytes, and returns whether there were some;
    it raises StoreUnavailable.
    """

    def __init__(self, limit: int, bound: Callable[[int], Awaitable[bool]]) -> None:
        self._limit = limit
        self._bound = bound
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tidewire-store-bound")

    async def _run(self) -> None:
        has_removed = False
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * (_AGAIN if has_removed else LOOK_SECONDS))
            has_removed = False
            try:
                has_removed = await self._bound(self._limit)
                if has_removed:
                    count_limit("store_history_bytes")
            except StoreUnavailable as error:
                logger.debug("the bytes of the store were not bounded: %s", error)
            except Exception:
                logger.exception("the bytes of the store were not bounded")

    async def aclose(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
