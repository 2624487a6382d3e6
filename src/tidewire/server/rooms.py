"""The list of rooms with their users, read once a second for all clients; and the end of unused rooms."""

from __future__ import annotations

import asyncio
import logging
import time

from tidewire.errors import StoreUnavailable
from tidewire.hub import Hub
from tidewire.protocols.chat import LOBBY, RoomEntry
from tidewire.server.accounts import Accounts

__all__ = ("RoomDirectory",)

logger = logging.getLogger("tidewire")

#: Rooms in a list, the oldest first.
_LISTED = 1_000
#: Seconds for which a list is used again, unless a room of this process changes.
_FRESH_SECONDS = 1.0
#: Seconds between two looks for unused rooms, how many are looked at, and how long an empty one stays.
_SWEEP_SECONDS, _SWEPT, _EMPTY_SECONDS = 60.0, 100, 3_600.0


class RoomDirectory:
    """Remembers rooms, lists them, and ends those that nobody uses any more."""

    def __init__(self, hub: Hub, accounts: Accounts) -> None:
        self._hub = hub
        self._accounts = accounts
        self._entries: list[RoomEntry] = []
        self._fresh_until = 0.0
        self._reading = asyncio.Lock()
        self._swept = 0

    async def add(self, name: str, user: str) -> None:
        """Note that a user joins a room; raises LimitExceeded when it would be one too many, StoreUnavailable."""
        if await self._accounts.rooms.use(name, "" if name == LOBBY else user):
            self.changed()

    def changed(self) -> None:
        """Read the list again at the next request, because somebody joined or left."""
        self._fresh_until = 0.0

    async def entries(self) -> list[RoomEntry]:
        """Return the rooms; raises StoreUnavailable."""
        async with self._reading:
            if time.monotonic() >= self._fresh_until:
                self._fresh_until = time.monotonic() + _FRESH_SECONDS
                names = await self._accounts.rooms.names(_LISTED)
                self._entries = [RoomEntry(name, len(await self._hub.users(f"events:{name}"))) for name in names]
            return self._entries

    async def keep_sweeping(self) -> None:
        """End unused rooms for as long as the server runs."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self.sweep()
            except StoreUnavailable as error:
                logger.warning("unused rooms are looked for later: %s", error)

    async def sweep(self) -> int:
        """End rooms in which nobody is, and that are empty or were not joined for `limits.room_seconds`."""
        found = await self._accounts.rooms.unused(_EMPTY_SECONDS, after=self._swept, most=_SWEPT)
        self._swept = found[-1].number if len(found) == _SWEPT else 0
        ended = 0
        for room in found:
            if room.name == LOBBY or await self._hub.users(f"events:{room.name}"):
                await self._accounts.rooms.still_used(room.name)
                continue
            channel = f"room:{room.name}"
            is_old = room.unused_seconds >= self._hub.limits.room_seconds
            if not is_old and (await self._hub.history(channel, limit=1)).publications:
                continue
            if await self._accounts.rooms.end(room):
                await self._hub.remove_history(channel)
                ended += 1
        if ended:
            self.changed()
            logger.info("%d unused rooms have ended", ended)
        return ended
