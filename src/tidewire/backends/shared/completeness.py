"""When a history page is complete (base.Broker.history): the same for every store whose offsets have no holes."""

from __future__ import annotations

from collections.abc import Sequence

from tidewire.messages import Position, Publication

__all__ = ("is_complete",)


def is_complete(
    since: Position | None, top: int, first: int, found: Sequence[Publication], limit: int | None, *, reverse: bool
) -> bool:
    """Return whether nothing is missing next to a position, or among the publications `found` from there on.

    `first` is the lowest offset that is shown. An operator may have removed publications from anywhere.
    """
    if found and abs(found[-1].offset - found[0].offset) + 1 != len(found):
        return False
    if reverse:
        return since is None or _is_next_before(since.offset, top, first, found)
    is_cut = limit is not None and len(found) >= limit
    lowest = first if since is None else max(first, since.offset + 1)
    if not is_cut and (found[-1].offset if found else lowest - 1) < top:
        return False
    return since is None or _is_next_after(since.offset, top, first, found)


def _is_next_before(offset: int, top: int, first: int, found: Sequence[Publication]) -> bool:
    """Return whether `found`, the newest first, begins right before an offset, or with the newest of all."""
    newest = min(offset - 1, top)
    if found and found[0].offset != newest:
        return False
    return offset <= top + 1 and (newest <= 0 or first <= newest)


def _is_next_after(offset: int, top: int, first: int, found: Sequence[Publication]) -> bool:
    """Return whether `found`, the oldest first, begins right after an offset."""
    return first - 1 <= offset <= top and not (found and found[0].offset > offset + 1)
