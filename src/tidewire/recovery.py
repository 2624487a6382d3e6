"""One history read serves all recoveries that wait for it."""

from __future__ import annotations

import asyncio

from tidewire.broker import Broker
from tidewire.messages import HistoryPage, Position, Retention

__all__ = ("HistoryReader", "narrow")


class _Round:
    """A read that has not begun, and the lowest position that it must serve."""

    __slots__ = ("answer", "lowest")

    def __init__(self, lowest: Position) -> None:
        self.lowest = lowest
        self.answer: asyncio.Task[HistoryPage] | None = None


class HistoryReader:
    """Reads history since a position, single-flight per channel: who asks during a read shares the next one.

    When many return at once, the store sees two reads for each channel, however many they are.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._next: dict[tuple[str, str], _Round] = {}
        self._current: dict[tuple[str, str], asyncio.Task[HistoryPage]] = {}

    async def since(self, channel: str, since: Position, retention: Retention) -> HistoryPage:
        """Return what `Broker.history` would; raises StoreUnavailable."""
        key = (channel, since.epoch)
        joined = self._next.get(key)
        if joined is None:
            joined = self._next[key] = _Round(since)
            joined.answer = asyncio.get_running_loop().create_task(self._read(key, joined, retention))
        elif since.offset < joined.lowest.offset:
            joined.lowest = since
        assert joined.answer is not None
        return narrow(await asyncio.shield(joined.answer), since)

    async def _read(self, key: tuple[str, str], joined: _Round, retention: Retention) -> HistoryPage:
        current = self._current.get(key)
        if current is not None:
            await asyncio.wait([current])
        del self._next[key]
        assert joined.answer is not None
        self._current[key] = joined.answer
        try:
            return await self._broker.history(key[0], since=joined.lowest, retention=retention)
        finally:
            if self._current.get(key) is joined.answer:
                del self._current[key]


def narrow(page: HistoryPage, since: Position) -> HistoryPage:
    """Return the part of a page that comes after a position which is not before the page's own."""
    if since.epoch != page.top.epoch:
        return HistoryPage((), page.top, complete=False)
    rest = tuple(publication for publication in page.publications if publication.offset > since.offset)
    if since.offset > page.top.offset:
        return HistoryPage((), page.top, complete=False)
    if page.complete or since.offset == page.top.offset:
        return HistoryPage(rest, page.top, complete=True)
    return HistoryPage(rest, page.top, complete=bool(rest) and rest[0].previous <= since.offset)
