"""Ends the connections of sessions that were ended, by this worker or by any other process that shares the accounts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from tidewire.errors import StoreUnavailable
from tidewire.hub import Hub
from tidewire.server.accounts import Accounts
from tidewire.server.login_sessions import apart_user
from tidewire.server.login_tokens import SessionToken
from tidewire.sessions.revocations import Revocation
from tidewire.support.log_limit import LogLimit

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
        #: The opening of the accounts whose sessions are known, and until when connections of those before may open.
        self._opening = 0
        self._compared_until = 0.0
        self._log_limit = LogLimit(10.0)

    async def run(self) -> None:
        """Watch until cancelled."""
        last: int | None = None
        while True:
            try:
                if last is None or self._accounts.openings != self._opening:
                    last = await self._begin()
                last = await self._look(last)
                if time.monotonic() < self._compared_until:
                    await self._compare()
            except StoreUnavailable as error:
                if (more := self._log_limit.due()) is not None:
                    logger.warning("ended sessions are looked for later: %s%s", error, more)
            await asyncio.sleep(_PAUSE)

    async def _begin(self) -> int:
        """Look into the accounts that are there now; return the number of the newest end of a session."""
        last = await self._accounts.sessions.last_end()
        if self._opening:
            self._compared_until = time.monotonic() + _OPENING_SECONDS
        self._opening = self._accounts.openings
        return last

    async def _compare(self) -> None:
        """End the connections of sessions that the accounts do not have: others may take the names of their users."""
        tokens = [(user, one.id) for user, one in self._hub.revocations.tokens() if isinstance(one, SessionToken)]
        known = await self._accounts.sessions.ids()
        for user, token in tokens:
            if token not in known:
                self._hub.revocations.end(Revocation(user, token))

    async def _look(self, last: int) -> int:
        now = time.monotonic()
        for ended in await self._accounts.sessions.ended_after(last):
            if not ended.session:  # all of a user, as a worker of an earlier version says
                self._compared_until = now + _OPENING_SECONDS
                last = ended.seq
                continue
            for user in (ended.user, apart_user(ended.user)):  # one that was removed does not say which it was
                self._recent.append((now + _OPENING_SECONDS, Revocation(user, ended.session)))
            last = ended.seq
        while self._recent and self._recent[0][0] < now:
            self._recent.popleft()
        for _, revocation in self._recent:
            self._hub.revocations.end(revocation)
        return last
