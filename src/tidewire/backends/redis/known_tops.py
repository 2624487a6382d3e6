"""Remembers how far channels have come: a server on which one is behind that has had a part of its data put back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from tidewire.backends.redis.driver import Reply
from tidewire.errors import StoreUnavailable
from tidewire.messages import Position

__all__ = ("KnownTops",)

logger = logging.getLogger("tidewire")

#: Channels that are remembered.
_CHANNELS = 10_000


class KnownTops:
    """The newest position of each channel of which this node was told.

    `begin_epoch` is called for a channel that is behind it in the same epoch: its offsets would be given again.
    """

    def __init__(self, begin_epoch: Callable[[str], asyncio.Future[list[Reply]]]) -> None:
        self._begin_epoch = begin_epoch
        self._tops: dict[str, Position] = {}

    def get(self, channel: str) -> Position | None:
        """Return the newest position of a channel, None when none is known."""
        return self._tops.get(channel)

    def take(self, channel: str, found: Position, before: Position | None) -> bool:
        """Take a position, and the one known before the server was asked for it; return whether it has gone back."""
        if before is not None and before.epoch == found.epoch and found.offset < before.offset:
            logger.warning("the channel %r has lost publications in Redis; a new epoch begins", channel)
            with contextlib.suppress(StoreUnavailable):  # else it is found behind again
                self._begin_epoch(channel).add_done_callback(lambda asked: asked.cancelled() or asked.exception())
                self._tops.pop(channel, None)
            return True
        known = self._tops.get(channel)
        if known is None or known.epoch != found.epoch or known.offset < found.offset:
            if len(self._tops) >= _CHANNELS:
                self._tops.clear()
            self._tops[channel] = found
        return False

    def have_gone_back(self, found: Mapping[str, Position], before: Mapping[str, Position | None]) -> bool:
        """Take several positions; return whether one of them has gone back."""
        gone_back = [channel for channel, position in found.items() if self.take(channel, position, before[channel])]
        return bool(gone_back)
