"""Reads history and positions, and removes history: each read is one script, so one moment of the store."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from tidewire.backends.redis.driver import Command, Reply
from tidewire.backends.redis.entries import unpack
from tidewire.backends.redis.generations import SCRIPTS
from tidewire.backends.redis.keys import Keys
from tidewire.backends.redis.opening import new_epoch
from tidewire.backends.redis.shards import Shard, Shards
from tidewire.backends.shared.completeness import is_complete
from tidewire.messages import MAX_OFFSET, HistoryPage, HistoryRequest, Position

__all__ = ("bound_history", "read_history", "read_positions", "remove_history")

#: Channels in one reading of positions.
_CHUNK = 500
#: The longest age that a script is told, in seconds.
_LONGEST_AGE = 1e10


async def read_history(shards: Shards, keys: Keys, request: HistoryRequest) -> HistoryPage:
    """Answer a history request (base.Broker.read); raises StoreUnavailable."""
    since, retention = request.since, request.retention
    bound = "" if since is None else min(max(since.offset, 0), MAX_OFFSET)
    shown = ("", "") if retention is None else (retention.size, str(min(retention.age, _LONGEST_AGE)))
    reply = await _run(
        shards,
        keys,
        "history",
        request.channel,
        "-" if request.reverse else "+",
        bound,
        "" if since is None else since.epoch,
        "" if request.limit is None else max(0, request.limit),
        *shown,
    )
    assert isinstance(reply, list)
    epoch, top, first, entries = reply
    position = Position(top, epoch.decode())
    if since is not None and since.epoch != position.epoch:
        return HistoryPage((), position, complete=False)
    found = tuple(
        unpack(request.channel, int(id[:-2]), position.epoch, int(fields[1]), fields[3])
        for id, fields in entries
        if id.endswith(b"-0")  # other entries are not ours
    )
    return HistoryPage(found, position, is_complete(since, top, first, found, request.limit, reverse=request.reverse))


async def remove_history(shards: Shards, keys: Keys, channel: str) -> None:
    """Remove the publications of a channel; its position stays. Raises StoreUnavailable."""
    assert isinstance(await _run(shards, keys, "remove", channel), list)


async def bound_history(shards: Shards, keys: Keys, channel: str, limit: int) -> bool:
    """Remove the oldest publications of a channel beyond so many bytes; return whether there were any.

    Raises StoreUnavailable.
    """
    return await _run(shards, keys, "bound", channel, limit) != 0


async def _run(shards: Shards, keys: Keys, name: str, channel: str, *arguments: str | int) -> Reply:
    """Run a script of one channel, on the connection for reading."""
    of_channel = keys.channel(channel)
    command: Command = ["EVALSHA", SCRIPTS[name].sha, len(of_channel), *of_channel, new_epoch(), *arguments]
    return await shards.shard(channel).reading.run([channel], command)


async def read_positions(shards: Shards, keys: Keys, channels: Sequence[str]) -> dict[str, Position]:
    """Return the top of each channel; raises StoreUnavailable."""
    before = {channel: shards.tops.get(channel) for channel in channels}
    found = await _read_all(shards, keys, channels)
    if shards.tops.have_gone_back(found, before):
        found = await _read_all(shards, keys, channels)
    return found


async def _read_all(shards: Shards, keys: Keys, channels: Sequence[str]) -> dict[str, Position]:
    # a call is one slot's in a cluster, and so is a chunk
    chunks: dict[tuple[Shard, int], list[str]] = defaultdict(list)
    for channel in channels:
        chunks[shards.shard(channel), keys.slot(channel)].append(channel)
    answers = [
        _read_chunk(shard, keys, names[start : start + _CHUNK])
        for (shard, _), names in chunks.items()
        for start in range(0, len(names), _CHUNK)
    ]
    found: dict[str, Position] = {}
    for answer in await asyncio.gather(*answers):
        found |= answer
    return {channel: found[channel] for channel in channels}


async def _read_chunk(shard: Shard, keys: Keys, channels: Sequence[str]) -> dict[str, Position]:
    of_channels = [key for channel in channels for key in keys.channel(channel)]
    command: Command = ["EVALSHA", SCRIPTS["positions"].sha, len(of_channels), *of_channels, new_epoch()]
    reply = await shard.reading.run(channels, command)
    assert isinstance(reply, list)
    tops = (Position(top, epoch.decode()) for epoch, top in zip(reply[::2], reply[1::2], strict=True))
    return dict(zip(channels, tops, strict=True))
