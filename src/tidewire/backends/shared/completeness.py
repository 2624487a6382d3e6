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
    if limit is None or len(found) < limit:  # nothing is left out behind the last one
        lowest = first if since is None else max(first, since.offset + 1)
        if not reverse and (found[-1].offset if found else lowest - 1) < top:
            return False
    if since is None:
        return True
    if found and not reverse and found[0].offset > since.offset + 1:
        return False
    if reverse:
        newest = min(since.offset - 1, top)
        if found and found[0].offset != newest:
            return False
        return since.offset <= top + 1 and (newest <= 0 or first <= newest)
    return first - 1 <= since.offset <= top
