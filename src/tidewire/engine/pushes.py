"""What fan-out has begun to push and may not end in one turn: a channel's batches, one publication for everybody."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from tidewire.engine.connection import Connection
from tidewire.engine.subscription import Subscription
from tidewire.messages import Publication
from tidewire.protocols.batch import Batch, Representation

__all__ = ("BroadcastPush", "ChannelPush")


class ChannelPush(msgspec.Struct):
    """What one channel publishes in one turn, and how far that has come when the turn's time ends.

    `first` and `last` are the offsets of the publications at its ends. `parts` are the batches that are left, each with
    the subscriptions that take it; `reached` counts those of the first part that were given it. Fan-out moves both.
    """

    publications: tuple[Publication, ...]
    first: int
    last: int
    parts: deque[tuple[Batch, tuple[Subscription, ...]]]
    reached: int = 0


class BroadcastPush:
    """One publication for connections whatever they subscribe to, and those that were not given it yet."""

    __slots__ = ("_batches", "publication", "waiting")

    def __init__(self, publication: Publication, connections: Sequence[Connection]) -> None:
        self.publication = publication
        self.waiting = dict.fromkeys(connections)
        self._batches: dict[Representation, Batch] = {}

    def batch(self, representation: Representation) -> Batch:
        """Return the publication in one representation, encoded once."""
        batch = self._batches.get(representation)
        if batch is None:
            batch = self._batches[representation] = representation.batch((self.publication,))
        return batch
