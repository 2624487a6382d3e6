"""One connection in one channel: where it became live, what waits for it, and the recovery merge. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tidewire.messages import Farewell, HistoryPage, Member, Position, Publication

if TYPE_CHECKING:  # the two hold each other; neither is above the other
    from tidewire.connection import Connection

__all__ = ("ENDED", "Recovery", "Subscription", "merge")

#: The `live_after` of a subscription that takes nothing more.
ENDED = 1 << 62


class Subscription:
    """One connection in one channel.

    `live_after` is the offset up to which this subscriber has been given everything; a batch is cut there. `buffer`
    is not None while a recovery or history reply is under way: publications wait in it instead of being pushed.
    `held` and `dropped` are what the slow-client policies keep (options.SlowPolicy).
    """

    __slots__ = (
        "buffer",
        "buffered_bytes",
        "channel",
        "connection",
        "dropped",
        "farewell",
        "farewell_on_error",
        "held",
        "live_after",
        "member",
    )

    def __init__(self, connection: Connection, channel: str) -> None:
        self.connection = connection
        self.channel = channel
        self.live_after = ENDED
        self.buffer: list[Publication] | None = []
        self.buffered_bytes = 0
        self.held: Publication | None = None
        self.dropped = 0
        #: Set when the subscriber is present in the channel.
        self.member: Member | None = None
        self.farewell: Farewell | None = None
        self.farewell_on_error: Farewell | None = None

    def hold(self, publications: Sequence[Publication]) -> None:
        """Keep publications for later, while a reply is under way."""
        assert self.buffer is not None
        self.buffer.extend(publications)
        self.buffered_bytes += sum(len(publication.data) for publication in publications)


class Recovery(msgspec.Struct, frozen=True):
    """What a subscriber is given before it is live: `publications` up to `position`, and whether nothing is missing."""

    publications: tuple[Publication, ...]
    position: Position
    complete: bool


def merge(since: Position | None, page: HistoryPage, buffered: Sequence[Publication]) -> Recovery:
    """Join what history said with what was delivered meanwhile: each offset once, in order, with no hole inside.

    `buffered` are publications in the order of their offsets, delivered since before the history was read; those of
    another epoch than `page.top` end it, as does a hole. `complete` is never True when something between `since` and
    the position is not in `publications`.
    """
    epoch = page.top.epoch
    publications = list(page.publications)
    last = publications[-1].offset if publications else page.top.offset
    complete = page.complete and last >= page.top.offset
    if since is not None:
        complete = complete and since.epoch == epoch and since.offset <= page.top.offset
    last = max(last, page.top.offset)
    for publication in buffered:
        if publication.epoch != epoch:
            complete = False
            break
        if publication.offset <= last:
            continue
        if publication.previous > last:
            complete = False
            break
        publications.append(publication)
        last = publication.offset
    return Recovery(tuple(publications), Position(last, epoch), complete)
