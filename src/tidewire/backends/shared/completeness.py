"""When a history page is complete (base.Broker.history): the same for every store whose offsets have no holes."""

from __future__ import annotations

from tidewire.messages import Position

__all__ = ("is_complete",)


def is_complete(since: Position | None, top: int, first: int, *, reverse: bool) -> bool:
    """Return whether nothing is missing next to a position; `first` is the lowest offset that is shown."""
    if since is None:
        return True
    if reverse:
        newest = min(since.offset - 1, top)
        return since.offset <= top + 1 and (newest <= 0 or first <= newest)
    return first - 1 <= since.offset <= top
