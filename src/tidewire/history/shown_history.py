"""Reads what a channel shows of its history; a store keeps more than that, so that every node can fill a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tidewire.backends.base import Broker
from tidewire.history.read_steps import FIRST_STEP, cost, fitting, step_after
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication
from tidewire.protocols.text_chunks import fold
from tidewire.support.counters import count_limit

__all__ = ("History", "IsShown", "everything")

#: Whether history shows a publication.
IsShown = Callable[[Publication], bool]
#: Publications of one further read, where some were hidden.
_FURTHER = 100


def everything(publication: Publication) -> bool:
    """Show every publication."""
    return True


class History:
    """The publications that a broker keeps, without those that history does not show.

    The chunks of a text stream are shown as one, which stands where the last of them stood.
    """

    def __init__(self, broker: Broker, is_shown: IsShown) -> None:
        self._broker = broker
        self._is_shown = is_shown

    def shown(self, publications: Iterable[Publication]) -> tuple[Publication, ...]:
        """Return the publications that history shows."""
        return fold(tuple(filter(self._is_shown, publications)))

    async def read(self, request: HistoryRequest, *, most: int | None = None) -> HistoryPage:
        """Read as `Broker.read` does; publications that are not shown do not count for `limit`.

        With `most`, the answer is cut at so many bytes, but holds one publication if there is any; it is read in steps,
        so that hardly more than that is ever in memory. Raises StoreUnavailable.
        """
        found: list[Publication] = []
        is_cut = False
        since, first, step = request.since, None, None if most is None else FIRST_STEP
        while True:
            asked = _asked(request.limit, len(found), step, is_first=first is None)
            page = await self._broker.read(msgspec.structs.replace(request, since=since, limit=asked))
            if first is None:
                first = page
            elif not page.complete:  # lost or trimmed meanwhile
                break
            found += self._until(first.top, page)
            if len(found) > 1:
                found = list(fold(found))
            if most is not None:
                fits = fitting(found, most)
                if fits < len(found):
                    count_limit("reply_bytes")
                    del found[fits:]
                    is_cut = True
                    break
                step = step_after(page.publications, most - sum(map(cost, found)))
            is_done = request.limit is not None and len(found) >= request.limit
            if not asked or len(page.publications) < asked or is_done:
                break
            since = Position(page.publications[-1].offset, first.top.epoch)
        return HistoryPage(tuple(found[: request.limit]), first.top, first.complete, is_cut)

    def _until(self, top: Position, page: HistoryPage) -> tuple[Publication, ...]:
        return self.shown(one for one in page.publications if one.offset <= top.offset)


def _asked(limit: int | None, found: int, step: int | None, *, is_first: bool) -> int | None:
    """Return how many publications a step asks for; None: all there are."""
    left = None if limit is None else limit - found
    if left is not None and not is_first:
        left = max(left, _FURTHER)
    if step is None or left is None:
        return step if left is None else left
    return min(left, step)
