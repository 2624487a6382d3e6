"""Ends the connections of sessions that were ended, by this worker or by any other process that shares the accounts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from tidewire.errors import StoreUnavailable
from tidewire.hub import Hub
from tidewire.server.accounts import Accounts
from tidewire.sessions.revocations import Revocation

__all__ = ("SessionWatch",)

logger = logging.getLogger("tidewire")

#: Seconds between two looks, and the longest that a connection takes to open after its token was verified.
_PAUSE, _OPENING_SECONDS = 0.25, 5.0


class SessionWatch:
    """Looks into the accounts several times a second, so that it needs nothing from the broker."""

    def __init__(self, hub: Hub, accounts: Accounts) -> None:
        self._hub = hub
        self._accounts = accounts
        #: The newest ones, with the time until which they are applied again: a connection may be opening meanwhile.
        self._recent: deque[tuple[float, Revocation]] = deque()

    async def run(self) -> None:
        """Watch until cancelled."""
        last: int | None = None
        while True:
            try:
                if last is None:
                    last = await self._accounts.sessions.last_end()
                last = await self._look(last)
            except StoreUnavailable as error:
                logger.warning("ended sessions are looked for later: %s", error)
            await asyncio.sleep(_PAUSE)

    async def _look(self, last: int) -> int:
        now = time.monotonic()
        for ended in await self._accounts.sessions.ended_after(last):
            before = 0.0 if ended.session else ended.ended
            self._recent.append((now + _OPENING_SECONDS, Revocation(ended.user, ended.session, before)))
            last = ended.seq
        while self._recent and self._recent[0][0] < now:
            self._recent.popleft()
        for _, revocation in self._recent:
            self._hub.revocations.end(revocation)
        return last
