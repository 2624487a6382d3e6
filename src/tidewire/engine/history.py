"""Reads what a channel shows of its history; a store keeps more than that, so that every node can fill a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tidewire.backends.base import Broker
from tidewire.messages import HistoryPage, Position, Publication, Retention

__all__ = ("History", "IsShown", "everything")

#: Whether history shows a publication.
IsShown = Callable[[Publication], bool]
#: Publications of one further read, where some were hidden.
_FURTHER = 100


def everything(publication: Publication) -> bool:
    """Show every publication."""
    return True


class History:
    """The publications that a broker keeps, without those that history does not show."""

    def __init__(self, broker: Broker, is_shown: IsShown) -> None:
        self._broker = broker
        self._is_shown = is_shown

    def shown(self, publications: Iterable[Publication]) -> tuple[Publication, ...]:
        """Return the publications that history shows."""
        return tuple(filter(self._is_shown, publications))

    async def read(
        self,
        channel: str,
        *,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
        retention: Retention,
    ) -> HistoryPage:
        """Read as `Broker.history` does; publications that are not shown do not count for `limit`.

        Raises StoreUnavailable.
        """

        async def read(since: Position | None, limit: int | None) -> HistoryPage:
            return await self._broker.history(channel, since=since, limit=limit, reverse=reverse, retention=retention)

        first = page = await read(since, limit)
        shown = self._until(first.top, page)
        asked = limit
        while asked and limit and len(shown) < limit and len(page.publications) >= asked:
            asked = max(limit, _FURTHER)
            page = await read(Position(page.publications[-1].offset, first.top.epoch), asked)
            if not page.complete:  # lost or trimmed meanwhile
                break
            shown += self._until(first.top, page)
        if limit is None and len(shown) == len(first.publications):
            return first
        return HistoryPage(shown[:limit], first.top, first.complete)

    def _until(self, top: Position, page: HistoryPage) -> tuple[Publication, ...]:
        return self.shown(one for one in page.publications if one.offset <= top.offset)
