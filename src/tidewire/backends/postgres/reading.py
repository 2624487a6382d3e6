"""Reads history, positions and news; each is one statement, so one moment of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tidewire.backends.postgres.pool import Pool
from tidewire.backends.postgres.schema import SQL
from tidewire.backends.shared.completeness import is_complete
from tidewire.errors import StoreUnavailable
from tidewire.messages import MAX_OFFSET, Format, HistoryPage, HistoryRequest, Position, Publication
from tidewire.retention import Retention

__all__ = ("PositionReader", "positions_of", "read_history", "read_news")

#: The number that stands for "all" in a statement.
_ALL = Retention(2**62, 1e18)
#: Channels of one positions statement.
_CHUNK = 2_000


def _publication(channel: str, row: Any) -> Publication:
    offset = row["offset"]
    return Publication(
        channel, offset, offset - 1, row["era"], row["time"], row["data"], Format(row["format"]), row["meta"]
    )


async def read_history(pool: Pool, request: HistoryRequest) -> HistoryPage:
    """Answer a history request (base.Broker.read); raises StoreUnavailable."""
    channel, since, limit, reverse = request.channel, request.since, request.limit, request.reverse
    shown = request.retention or _ALL
    size, age = min(shown.size, _ALL.size), min(shown.age, _ALL.age)
    edge = (MAX_OFFSET + 1 if reverse else 0) if since is None else max(-1, min(since.offset, MAX_OFFSET + 1))
    most = None if limit is None else max(0, limit)
    rows = await pool.fetch(SQL["backward" if reverse else "forward"], channel, size, age, edge, most)
    if not rows:
        raise StoreUnavailable("the store is being made; try again")
    top, era = rows[0]["top"], rows[0]["era"]
    position = Position(top, era)
    if since is not None and since.epoch != era:
        return HistoryPage((), position, complete=False)
    first = top + 1 if rows[0]["first"] is None else rows[0]["first"]
    found = tuple([_publication(channel, row) for row in rows if row["offset"] is not None])
    return HistoryPage(found, position, is_complete(since, top, first, found, limit, reverse=reverse))


def positions_of(names: Sequence[str], rows: Sequence[Any]) -> dict[str, Position]:
    """Return the positions that a positions statement found; a channel without a counter is at 0."""
    if not rows:
        raise StoreUnavailable("the store is being made; try again")
    era = rows[0]["era"]
    tops = {row["name"]: row["top"] for row in rows}
    return {name: Position(tops.get(name, 0), era) for name in names}


class PositionReader:
    """Reads tops; calls that come while a statement is in flight share the next one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._next: tuple[dict[str, None], asyncio.Task[dict[str, Position]]] | None = None
        self._turn = asyncio.Lock()

    async def get(self, names: Sequence[str]) -> dict[str, Position]:
        """Return the top of each channel, as of a moment after the call; raises StoreUnavailable."""
        if self._next is None:
            asked: dict[str, None] = {}
            self._next = asked, asyncio.get_running_loop().create_task(self._read(asked))
        asked, reading = self._next
        asked.update(dict.fromkeys(names))
        found = await asyncio.shield(reading)
        return {name: found[name] for name in names}

    async def _read(self, asked: dict[str, None]) -> dict[str, Position]:
        async with self._turn:
            self._next = None
            names = list(asked)
            found: dict[str, Position] = {}
            for start in range(0, len(names), _CHUNK):
                chunk = names[start : start + _CHUNK]
                found |= positions_of(chunk, await self._pool.fetch(SQL["positions"], chunk))
            return found


async def read_news(pool: Pool, after: dict[str, int], limit: int) -> list[Publication]:
    """Return the publications of each channel after an offset, at most `limit` in all, channel by channel, in order."""
    rows = await pool.fetch(SQL["news"], list(after), list(after.values()), limit)
    return [_publication(row["name"], row) for row in rows]
