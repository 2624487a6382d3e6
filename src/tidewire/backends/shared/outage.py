"""Logs once that the store is away, and once that it is back, however many connections notice."""

from __future__ import annotations

import logging
import time

from tidewire.support.log_limit import LogLimit

__all__ = ("Outage",)

logger = logging.getLogger("tidewire")

#: Seconds in which no second outage is told of: one server of many, or a limit of connections, may flap.
_PAUSE = 10.0


class Outage:
    """The connections to one store, for publications and for presence, that are lost at the moment."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self._away: set[object] = set()
        self._began = 0.0
        self._limit = LogLimit(_PAUSE)
        self._is_logged = False

    def begins(self, owner: object, reason: str) -> None:
        """Note that a connection is lost, or cannot be made."""
        if not self._away:
            self._began = time.monotonic()
        if not self._is_logged and (more := self._limit.due()) is not None:
            self._is_logged = True
            logger.warning("%s is away (%s); connecting again until it is back%s", self.shown, reason, more)
        self._away.add(owner)

    def ends(self, owner: object) -> None:
        """Note that a connection is made."""
        was_logged = self._is_logged
        if owner in self._away:
            self.forget(owner)
            if was_logged and not self._away:
                logger.warning("%s is back after %.1f s", self.shown, time.monotonic() - self._began)

    def forget(self, owner: object) -> None:
        """Forget a connection that is no longer wanted."""
        self._away.discard(owner)
        self._is_logged = self._is_logged and bool(self._away)
