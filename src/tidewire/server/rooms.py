"""The rooms that there are, and how many users are in each: read once for all who ask within a second."""

from __future__ import annotations

import asyncio
import time

from tidewire.hub import Hub
from tidewire.protocols.chat import RoomEntry
from tidewire.server.accounts import Accounts

__all__ = ("RoomDirectory",)

#: Rooms in a list, the oldest first.
_LISTED = 1_000
#: Seconds for which a list is good, unless a room of this process changes.
_FRESH_SECONDS = 1.0


class RoomDirectory:
    """Remembers rooms, and tells which there are."""

    def __init__(self, hub: Hub, accounts: Accounts) -> None:
        self._hub = hub
        self._accounts = accounts
        self._entries: list[RoomEntry] = []
        self._fresh_until = 0.0
        self._reading = asyncio.Lock()

    async def add(self, name: str) -> None:
        """Remember a room; raises StoreUnavailable."""
        await self._accounts.add_room(name)
        self.changed()

    def changed(self) -> None:
        """Read the list anew when it is asked for next: somebody came or went."""
        self._fresh_until = 0.0

    async def entries(self) -> list[RoomEntry]:
        """Return the rooms; raises StoreUnavailable."""
        async with self._reading:
            if time.monotonic() >= self._fresh_until:
                self._fresh_until = time.monotonic() + _FRESH_SECONDS
                names = (await self._accounts.rooms())[:_LISTED]
                self._entries = [RoomEntry(name, len(await self._hub.users(f"events:{name}"))) for name in names]
            return self._entries
