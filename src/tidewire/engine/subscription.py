"""One connection in one channel: where it became live, and the publications that wait for it. Passive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from tidewire.backends.base import JoinResult
from tidewire.engine.connection import Connection
from tidewire.messages import Announcement, Member, Position, Publication
from tidewire.protocols.batch import Representation

__all__ = ("ENDED", "Stay", "Subscription")

#: The `live_after` of a subscription that takes nothing more.
ENDED = 1 << 62


class Stay(msgspec.Struct, eq=False):
    """One subscriber's presence in one channel, from its join to its leave. Memberships alone write its fields.

    `token` belongs to this stay alone: a connection that leaves and joins again is announced again. The leave is
    announced only if the user `is_announced`.
    """

    channel: str
    member: Member
    token: str
    leave: Announcement | None = None
    leave_on_error: Announcement | None = None
    is_announced: bool = False
    #: The store's answer to the join.
    joining: asyncio.Task[JoinResult] | None = None


class Subscription:
    """One connection in one channel.

    `live_after` is the offset up to which this subscriber has been given everything; a batch is cut there. Fan-out
    moves it with every write. `buffer` is not None while a recovery or history reply is being written: publications
    wait in it instead of being pushed. `held` and `dropped` belong to the slow-client policies
    (channel_options.SlowPolicy). `representation` is its connection's, unless its subscriber chose another (deltas, a
    filter by tags). `on_insufficient` is told of a gap that cannot be filled, instead of the client.
    """

    __slots__ = (
        "began",
        "buffer",
        "buffered_bytes",
        "channel",
        "connection",
        "dropped",
        "held",
        "is_paging",
        "live_after",
        "lost",
        "on_insufficient",
        "representation",
        "resumed",
        "stay",
    )

    def __init__(
        self,
        connection: Connection,
        channel: str,
        representation: Representation | None = None,
        on_insufficient: Callable[[Subscription], None] | None = None,
    ) -> None:
        self.connection = connection
        self.channel = channel
        self.representation = representation or connection.representation
        self.on_insufficient = on_insufficient
        self.live_after = ENDED
        #: The channel's position when the subscribe began: later publications wait in the buffer.
        self.began: Position | None = None
        self.buffer: list[Publication] | None = []
        self.buffered_bytes = 0
        #: More missed publications come in further pages; the last one has those that were published meanwhile.
        self.is_paging = False
        self.held: Publication | None = None
        self.dropped = 0
        #: Publications that the slow-client policies have kept from it so far.
        self.lost = 0
        #: Where the channel went on after a gap that could not be filled while the reply was being written.
        self.resumed: Position | None = None
        #: Set while the subscriber is present in the channel.
        self.stay: Stay | None = None

    # From subscribe to the end.

    def begin(self, position: Position) -> None:
        """Note where the channel stands when the subscribe begins."""
        self.began = position

    def page(self, *, has_more: bool) -> None:
        """Begin to be given the missed publications in pages, or end it."""
        self.is_paging = has_more

    def go_live(self, after: int) -> None:
        """Push everything after an offset from now on, instead of buffering it."""
        self.buffer = None
        self.live_after = after

    def go_on(self, representation: Representation) -> None:
        """Push another representation from now on."""
        self.representation = representation

    def end(self) -> None:
        """Take nothing more, not even from a batch that has begun."""
        self.live_after = ENDED

    def enter(self, stay: Stay) -> None:
        """Begin a stay in the channel."""
        self.stay = stay

    def leave(self) -> Stay | None:
        """End the stay in the channel, and return it."""
        stay, self.stay = self.stay, None
        return stay

    # Publications that wait.

    def buffer_behind_reply(self, publications: Sequence[Publication]) -> None:
        """Keep publications until the reply is written."""
        assert self.buffer is not None
        self.buffer.extend(publications)
        self.buffered_bytes += sum([len(publication.data) for publication in publications])

    def shorten_buffer(self, kept: Sequence[Publication]) -> None:
        """Keep only these of the publications that wait behind the reply."""
        self.buffer = list(kept)
        self.buffered_bytes = sum([len(publication.data) for publication in kept])

    def resume(self, top: Position) -> None:
        """Go on at `top` after a gap that cannot be filled; while a reply is written, that is told behind it."""
        if self.buffer is not None:
            self.shorten_buffer(())
            self.resumed = top
        else:
            self.live_after, self.held = top.offset, None

    def hold_newest(self, publications: Sequence[Publication]) -> int:
        """Keep the newest publication for a slow client; return how many it superseded."""
        superseded = len(publications) - 1 + (self.held is not None)
        self.held = publications[-1]
        self.lost += superseded
        return superseded

    def supersede(self, count: int) -> None:
        """Count publications for which a newer one stands."""
        self.lost += count

    def drop(self, count: int) -> None:
        """Count publications that a slow client will not be given."""
        self.dropped += count
        self.lost += count

    def take_held(self) -> tuple[Publication | None, int]:
        """Return the publications held for a slow client, and how many were dropped; forget both."""
        held, dropped = self.held, self.dropped
        self.held, self.dropped = None, 0
        return held, dropped
