"""The processes that serve the same application beside this one."""

from __future__ import annotations

import asyncio
import logging

from tidewire.support.key_counts import Counts
from tidewire.support.per_loop import PerLoop

__all__ = ("Siblings", "open_counts")

logger = logging.getLogger("tidewire")


class Siblings(PerLoop):
    """The other workers, as the server that runs on this event loop knows them."""

    __slots__ = ("counts", "workers")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        #: How many share its port; 1 where that is not known.
        self.workers = 1
        #: The counts that they share: those of a hub whose store they share.
        self.counts = Counts()


def open_counts(key: str) -> Counts:
    """Return the counts that the processes of this machine and user share under a key, or else those of this one."""
    try:
        from tidewire.support.shared_counts import SharedCounts

        return SharedCounts.open(key)
    except (ImportError, OSError) as error:
        logger.warning("limits by user and by network hold for each process alone: %s", error)
        return Counts()
