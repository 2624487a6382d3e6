"""What fan-out has begun and may not end in one turn: a channel's batches, one publication for everybody. Passive."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tidewire.engine.registry import Channel
from tidewire.engine.subscription import Subscriber, Subscription
from tidewire.messages import Publication
from tidewire.protocols.batch import Batch, Representation

__all__ = ("Everybody", "Work")


class Work:
    """What one channel publishes in one turn, and how far that has come when the turn's time ends."""

    __slots__ = ("first", "last", "parts", "publications", "reached")

    def __init__(self, channel: Channel) -> None:
        publications = tuple(channel.pending)
        self.publications = publications
        self.first = publications[0].offset
        self.last = publications[-1].offset
        self.parts = deque[tuple[Batch, tuple[Subscription, ...]]]()
        began: list[Subscription] = []
        for representation, group in channel.groups.items():
            batch = representation.batch_after(channel.last, publications)
            if len(batch):
                self.parts.append((batch, group.snapshot))
                if representation.then is not None:  # who has begun already behind all this is given nothing of it
                    began += [one for one in group.snapshot if one.live_after < self.last]
            else:  # nothing here is for them
                for subscription in group.snapshot:
                    subscription.live_after = max(subscription.live_after, self.last)
        for subscription in began:
            channel.has_begun(subscription)
        if channel.options.delta:
            channel.last = publications[-1]
        self.reached = 0


class Everybody:
    """One publication for connections whatever they follow, and who has not been given it."""

    __slots__ = ("batches", "publication", "waiting")

    def __init__(self, publication: Publication, connections: Sequence[Subscriber]) -> None:
        self.publication = publication
        self.waiting = dict.fromkeys(connections)
        self.batches: dict[Representation, Batch] = {}
