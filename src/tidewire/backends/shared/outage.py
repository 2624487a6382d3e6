"""Says once that the store is away, and once that it is back, however many connections notice."""

from __future__ import annotations

import logging
import time

__all__ = ("Outage",)

logger = logging.getLogger("tidewire")


class Outage:
    """What all connections to one store, for publications and for presence, have in common when it is away."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._away: set[object] = set()
        self._began = 0.0

    def begins(self, who: object, reason: str) -> None:
        """A connection is lost, or cannot be made."""
        if not self._away:
            self._began = time.monotonic()
            logger.warning("%s is away (%s); connecting again until it is back", self._shown, reason)
        self._away.add(who)

    def ends(self, who: object) -> None:
        """A connection is made."""
        if who in self._away:
            self._away.discard(who)
            if not self._away:
                logger.warning("%s is back after %.1f s", self._shown, time.monotonic() - self._began)

    def forget(self, who: object) -> None:
        """A connection is wanted no longer, wherever the store is."""
        self._away.discard(who)
