"""Reads what a channel shows of its history; a store keeps more than that, for carriage."""

from __future__ import annotations

from tidewire.backends.base import Broker
from tidewire.messages import HistoryPage, Position, Publication, Retention
from tidewire.protocols.meta import is_history

__all__ = ("read_shown",)

#: Publications of one further read, where some were hidden.
_FURTHER = 100


async def read_shown(
    broker: Broker,
    channel: str,
    *,
    since: Position | None = None,
    limit: int | None = None,
    reverse: bool = False,
    retention: Retention,
) -> HistoryPage:
    """Read as `Broker.history` does, without what was published to be in no history: that does not count for `limit`.

    Raises StoreUnavailable.
    """

    async def read(since: Position | None, limit: int | None) -> HistoryPage:
        return await broker.history(channel, since=since, limit=limit, reverse=reverse, retention=retention)

    first = page = await read(since, limit)
    shown = _shown(page, first.top)
    asked = limit
    while asked and limit and len(shown) < limit and len(page.publications) >= asked:
        asked = max(limit, _FURTHER)
        page = await read(Position(page.publications[-1].offset, first.top.epoch), asked)
        if not page.complete:  # lost or trimmed meanwhile
            break
        shown += _shown(page, first.top)
    if limit is None and len(shown) == len(first.publications):
        return first
    return HistoryPage(tuple(shown[:limit]), first.top, first.complete)


def _shown(page: HistoryPage, top: Position) -> list[Publication]:
    return [one for one in page.publications if one.offset <= top.offset and is_history(one)]
