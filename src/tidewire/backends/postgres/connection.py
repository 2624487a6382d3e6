"""This node's connection to the server: after one failure everything fails at once, until a probe succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tidewire.backends.postgres.server_errors import FAILURES, explain
from tidewire.backends.shared.outage import Outage
from tidewire.backends.shared.reconnecting import reconnect
from tidewire.errors import StoreUnavailable, TidewireError

__all__ = ("Connection",)


class Connection:
    """Stands for all sessions with the server. `lose` ends them; then `probe` is called until it returns."""

    def __init__(
        self,
        shown: str,
        outage: Outage,
        probe: Callable[[], Awaitable[None]],
        *,
        on_lost: Callable[[], None],
        on_back: Callable[[], None],
    ) -> None:
        self._shown = shown
        self._outage = outage
        self._probe = probe
        self._on_lost = on_lost
        self._on_back = on_back
        self._probing: asyncio.Task[None] | None = None
        self._is_closed = False
        #: Why the server is away; "" while it is there.
        self.trouble = ""
        #: Counts the losses: a failure of something that was begun before the last one says nothing new.
        self.losses = 0

    def check(self) -> None:
        """Raise StoreUnavailable while the server is away."""
        if self.trouble:
            raise StoreUnavailable(self.trouble)

    def lose(self, error: BaseException, losses: int) -> None:
        """Take a failure of something that was begun after so many losses; harmless after a later one."""
        if self.trouble or self._is_closed or losses != self.losses:
            return
        self.losses += 1
        self.trouble = explain(error, self._shown)
        self._outage.begins(self, self.trouble)
        self._on_lost()
        self._probing = asyncio.get_running_loop().create_task(self._reconnect(), name="tidewire-postgres-probe")

    async def _reconnect(self) -> None:
        expected = (*FAILURES, TidewireError)
        await reconnect(self._probe, outage=self._outage, owner=self, expected=expected, failed=self._failed)
        self.trouble, self._probing = "", None
        self._on_back()

    def _failed(self, error: Exception) -> str:
        self.trouble = explain(error, self._shown)
        return self.trouble

    async def aclose(self) -> None:
        """End a probe that is under way; nothing is lost any more."""
        self._is_closed = True
        self._outage.forget(self)
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
