"""Whether the server is there: after one failure everything fails at once, until a probe succeeds."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from tidewire.backends.postgres.server_errors import FAILURES, explain
from tidewire.backends.shared.outage import Outage
from tidewire.errors import StoreUnavailable, TidewireError

__all__ = ("Circuit",)

logger = logging.getLogger("tidewire")

#: Seconds of the first pause between two probes, and of the longest; each is taken with full jitter.
_FIRST, _LONGEST = 0.1, 2.0


class Circuit:
    """Closed while the server is there. `trip` opens it; then `probe` is tried again and again until it returns."""

    def __init__(
        self,
        shown: str,
        outage: Outage,
        probe: Callable[[], Awaitable[None]],
        *,
        on_away: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self._shown = shown
        self._outage = outage
        self._probe = probe
        self._on_away = on_away
        self._on_back = on_back
        self._probing: asyncio.Task[None] | None = None
        self._is_ended = False
        #: Why the server is away; "" while it is there.
        self.reason = ""
        #: Counts the outages: what was begun before the last one says nothing of the server as it is now.
        self.outages = 0

    def check(self) -> None:
        """Raise StoreUnavailable while the server is away."""
        if self.reason:
            raise StoreUnavailable(self.reason)

    def trip(self, error: BaseException, outages: int) -> None:
        """Say that what was begun after so many outages has failed; harmless when there was another one since."""
        if self.reason or self._is_ended or outages != self.outages:
            return
        self.outages += 1
        self.reason = explain(error, self._shown)
        self._outage.begins(self, self.reason)
        self._on_away()
        self._probing = asyncio.get_running_loop().create_task(self._try_until_back(), name="tidewire-postgres-probe")

    async def _try_until_back(self) -> None:
        tries = 0
        while not self._is_ended:
            try:
                await self._probe()
                break
            except (*FAILURES, TidewireError) as error:
                self.reason = explain(error, self._shown)
            except Exception as error:
                logger.exception("a probe of %s failed in an unforeseen way", self._shown)
                self.reason = explain(error, self._shown)
            await asyncio.sleep(random.uniform(0, min(_LONGEST, _FIRST * 2**tries)))
            tries = min(tries + 1, 10)
        if self._is_ended:
            return
        self.reason, self._probing = "", None
        self._outage.ends(self)
        self._on_back()

    async def aclose(self) -> None:
        """End a probe that is under way; nothing trips any more."""
        self._is_ended = True
        self._outage.forget(self)
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
