"""Bounds the bytes of a channel's history, in stores that are asked for it: as it grows, the oldest go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tidewire.errors import StoreUnavailable
from tidewire.messages import PublishRequest
from tidewire.support.counters import count_limit

__all__ = ("Growth",)

logger = logging.getLogger("tidewire")

#: The part of a channel's limit after whose growth its size is measured.
_PART = 4
#: Channels whose growth is remembered, and bytes for which a publication counts beside its data.
_CHANNELS, _COST = 100_000, 64


class Growth:
    """Knows how much each channel has grown by this node.

    `bound` removes what is oldest of a channel beyond so many bytes, and returns whether there was something; it raises
    StoreUnavailable. A reader that wanted it is told, as after a removal on request.
    """

    def __init__(self, limit: int, bound: Callable[[str, int], Awaitable[bool]]) -> None:
        self._limit = limit
        self._part = limit // _PART
        self._bound = bound
        self._grown: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def add(self, request: PublishRequest) -> None:
        """Take note of a publication."""
        channel, grown = request.channel, self._grown
        size = grown.get(channel, 0) + len(request.data) + len(request.meta) + _COST
        if size > self._part and channel not in self._running:
            grown.pop(channel, None)
            task = asyncio.get_running_loop().create_task(self._apply(channel))
            self._running[channel] = task
            task.add_done_callback(lambda _: self._running.pop(channel, None))
            return
        if len(grown) >= _CHANNELS:
            grown.clear()
        grown[channel] = size

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
