"""Publishes that wait for a store: how many may, the same for every store, and how they are answered."""

from __future__ import annotations

import asyncio

from tidewire.errors import NotPublished, PublishError
from tidewire.messages import Position
from tidewire.support.counters import count_limit

__all__ = ("WAITING_BYTES", "WAITING_COUNT", "check_room", "settle")

#: Publishes, and their bytes, that may wait for one server.
WAITING_COUNT = 100_000
WAITING_BYTES = 64 * 1_048_576


def check_room(count: int, size: int, shown: str) -> None:
    """Raise NotPublished when so many publishes wait that no more can; `shown` names the store."""
    if count < WAITING_COUNT and size < WAITING_BYTES:
        return
    count_limit("publishes_waiting" if count >= WAITING_COUNT else "publish_bytes_waiting")
    raise NotPublished(
        f"{count} publishes with {size} bytes wait for {shown} already "
        f"(the limit is {WAITING_COUNT}, or {WAITING_BYTES} bytes); publish less, or use a faster store"
    )


def settle(future: asyncio.Future[Position], result: Position | PublishError) -> None:
    """Answer who waits for a publish, if somebody still does; each is raised an error of its own."""
    if future.done():
        return
    if isinstance(result, PublishError):
        future.set_exception(type(result)(*result.args))
    else:
        future.set_result(result)
