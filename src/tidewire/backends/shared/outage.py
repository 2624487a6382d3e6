"""Logs once that the store is away, and once that it is back, however many connections notice."""

from __future__ import annotations

import logging
import time

__all__ = ("Outage",)

logger = logging.getLogger("tidewire")


class Outage:
    """The connections to one store, for publications and for presence, that are lost at the moment."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self._away: set[object] = set()
        self._began = 0.0

    def begins(self, owner: object, reason: str) -> None:
        """Note that a connection is lost, or cannot be made."""
        if not self._away:
            self._began = time.monotonic()
            logger.warning("%s is away (%s); connecting again until it is back", self.shown, reason)
        self._away.add(owner)

    def ends(self, owner: object) -> None:
        """Note that a connection is made."""
        if owner in self._away:
            self._away.discard(owner)
            if not self._away:
                logger.warning("%s is back after %.1f s", self.shown, time.monotonic() - self._began)

    def forget(self, owner: object) -> None:
        """Forget a connection that is no longer wanted."""
        self._away.discard(owner)
