"""Bounds the bytes of all channels of a store: those go first that were not published to for longest."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from tidewire.backends.redis.driver import Command
from tidewire.backends.redis.generations import SCRIPTS
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.opening import new_epoch
from tidewire.backends.redis.shards import Shard, Shards

__all__ = ("StoreBytes",)

#: Keys of one command, and the part of the limit that is free after it was reached.
_CHUNK, _SPARE = 500, 1 / 8
#: Seconds after which all channels are measured again, even if the server's memory has not grown by the free part.
_AGAIN = 600.0


class _Stored(msgspec.Struct):
    """A channel's stream, as its server measures it."""

    shard: Shard
    channel: str
    size: int
    #: When it was last published to, in milliseconds.
    last: int = 0


class StoreBytes:
    """Knows how much a server's memory may grow before its channels have to be measured again."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._measure_at = (0, 0.0)

    async def bound(self, shards: Shards, limit: int) -> bool:
        """Remove publications beyond so many bytes; return whether there were any. Raises StoreUnavailable."""
        used = sum(await asyncio.gather(*(_used(shard) for shard in shards.all)))
        least, again = self._measure_at
        if used <= limit or (used < least and time.monotonic() < again):
            return False
        found = [one for part in await asyncio.gather(*(self._measure(shard) for shard in shards.all)) for one in part]
        total = sum(one.size for one in found)
        if total > limit:
            await self._remove(found, total - int(limit * (1 - _SPARE)))
            self._measure_at = (0, 0.0)
            return True
        self._measure_at = (used + limit - total, time.monotonic() + _AGAIN)
        return False

    async def _measure(self, shard: Shard) -> list[_Stored]:
        found, cursor, pattern = [], b"0", self._keys.stream_pattern
        while True:
            reply: Any = await shard.reading.requests.run(["SCAN", cursor, "MATCH", pattern, "COUNT", _CHUNK])
            cursor, names = reply
            sizes = await _ask(shard, [["MEMORY", "USAGE", name] for name in names])
            for name, size in zip(names, sizes, strict=True):
                channel = self._keys.channel_of(name)
                if channel is not None and isinstance(size, int):
                    found.append(_Stored(shard, channel, size))
            if cursor == b"0":
                return list({one.channel: one for one in found}.values())

    async def _remove(self, found: Sequence[_Stored], excess: int) -> None:
        for shard in {id(one.shard): one.shard for one in found}.values():
            mine = [one for one in found if one.shard is shard]
            entries = await _ask(
                shard, [["XREVRANGE", self._keys.channel(one.channel)[2], "+", "-", "COUNT", 1] for one in mine]
            )
            for one, entry in zip(mine, entries, strict=True):
                if isinstance(entry, list) and entry and re.fullmatch(rb"[0-9]+", entry[0][1][1]):
                    one.last = int(entry[0][1][1])
        for one in sorted(found, key=lambda one: one.last):
            if excess <= 0:
                return
            keys = self._keys.channel(one.channel)
            name, asked = ("remove", []) if one.size <= excess else ("bound", [one.size - excess])
            await one.shard.reading.run(
                [one.channel], ["EVALSHA", SCRIPTS[name].sha, len(keys), *keys, new_epoch(), *asked]
            )
            excess -= one.size


async def _used(shard: Shard) -> int:
    """Return the bytes that a server uses for everything."""
    reply: Any = await shard.reading.requests.run(["INFO", "memory"])
    said = re.search(rb"used_memory_dataset:([0-9]+)", reply if isinstance(reply, bytes) else str(reply).encode())
    return int(said[1]) if said else 0


async def _ask(shard: Shard, commands: Sequence[Command]) -> list[Any]:
    replies: list[Any] = []
    for start in range(0, len(commands), _CHUNK):
        replies += await shard.reading.requests.ask(*commands[start : start + _CHUNK])
    return replies
