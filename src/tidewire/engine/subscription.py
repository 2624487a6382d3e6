"""One connection in one channel: where it became live, what waits for it, and the recovery merge. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.backends.base import JoinResult
from tidewire.errors import Disconnect
from tidewire.links.base import Link
from tidewire.messages import Announcement, HistoryPage, Member, Position, Publication, WireMessage
from tidewire.protocols.base import Protocol
from tidewire.protocols.batch import Representation

__all__ = ("ENDED", "Recovery", "Stay", "Subscriber", "Subscription", "merge")

#: The `live_after` of a subscription that takes nothing more.
ENDED = 1 << 62


class Subscriber(TypingProtocol):
    """What a subscription needs of its connection (connection.Connection)."""

    id: str
    user: str
    link: Link
    protocol: Protocol[Any]
    representation: Representation
    subscriptions: dict[str, Subscription]
    disconnect: Disconnect | None
    ending: Disconnect | None
    has_held: bool

    @property
    def is_closed(self) -> bool:
        """It has ended, or is ending."""

    def write(self, *messages: WireMessage) -> None:
        """Write messages that belong to no channel."""

    def end(self, disconnect: Disconnect) -> None:
        """Begin to end it."""


class Stay:
    """One subscriber's presence in one channel, from its join to its leave.

    `token` belongs to this stay alone: a connection that leaves and joins again is announced again. The announcement is
    said only of who `is_announced`.
    """

    __slots__ = ("announcement", "announcement_on_error", "channel", "is_announced", "joining", "member", "token")

    def __init__(
        self,
        channel: str,
        member: Member,
        token: str,
        announcement: Announcement | None = None,
        announcement_on_error: Announcement | None = None,
    ) -> None:
        self.channel = channel
        self.member = member
        self.token = token
        self.announcement = announcement
        self.announcement_on_error = announcement_on_error
        self.is_announced = False
        #: The store's answer to the join.
        self.joining: asyncio.Task[JoinResult] | None = None


class Subscription:
    """One connection in one channel.

    `live_after` is the offset up to which this subscriber has been given everything; a batch is cut there. `buffer`
    is not None while a recovery or history reply is under way: publications wait in it instead of being pushed.
    `held` and `dropped` are what the slow-client policies keep (options.SlowPolicy). `representation` is what it is
    pushed in: its connection's, unless its subscriber chose another (deltas, a filter by tags).
    """

    __slots__ = (
        "began",
        "buffer",
        "buffered_bytes",
        "channel",
        "connection",
        "dropped",
        "held",
        "live_after",
        "on_insufficient",
        "representation",
        "resumed",
        "stay",
    )

    def __init__(self, connection: Subscriber, channel: str, representation: Representation | None = None) -> None:
        self.connection = connection
        self.channel = channel
        self.representation = representation or connection.representation
        self.live_after = ENDED
        #: The channel's position when the subscribe began: what came since waits in the buffer.
        self.began: Position | None = None
        self.buffer: list[Publication] | None = []
        self.buffered_bytes = 0
        self.held: Publication | None = None
        self.dropped = 0
        #: Where the channel went on after a gap that could not be filled while the reply was under way.
        self.resumed: Position | None = None
        #: Set when the subscriber is present in the channel.
        self.stay: Stay | None = None
        #: Told of a gap that cannot be filled, instead of the client.
        self.on_insufficient: Callable[[Subscription], None] | None = None

    def hold(self, publications: Sequence[Publication]) -> None:
        """Keep publications for later, while a reply is under way."""
        assert self.buffer is not None
        self.buffer.extend(publications)
        self.buffered_bytes += sum([len(publication.data) for publication in publications])


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
    top = page.top
    publications = list(page.publications)
    reached = since.offset if since is not None else top.offset
    if publications:
        reached = publications[-1].offset
    complete = page.complete and reached >= top.offset and _is_chain(publications)
    if since is not None:
        complete = complete and since.epoch == top.epoch and since.offset <= top.offset
    last = max(publications[-1].offset, top.offset) if publications else top.offset
    for publication in buffered:
        if publication.epoch != top.epoch:
            complete = False
            break
        if publication.offset <= last:
            continue
        if publication.previous > last:
            complete = False
            break
        publications.append(publication)
        last = publication.offset
    return Recovery(tuple(publications), Position(last, top.epoch), complete)


def _is_chain(publications: Sequence[Publication]) -> bool:
    return all(later.previous <= earlier.offset < later.offset for earlier, later in pairwise(publications))
