"""Puts the live messages of one channel into the order of their offsets.

The server republishes the messages of two connections that publish at the same time in either order (seen on 2.9.10);
each message names its own sequence and the one before it.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable

import msgspec
from nats.aio.subscription import Subscription

from tidewire.messages import Publication

__all__ = ("HELD_COUNT", "OrderedChannel")

#: Messages that wait for an earlier one; beyond that nothing is waited for, and history fills the gap.
HELD_COUNT = 1_024


class _Arrived(msgspec.Struct, frozen=True, order=True, gc=False):
    """A message of the channel; without a publication it marks the removal of a history, whose top was `top`."""

    sequence: int
    previous: int
    top: int
    publication: Publication | None


class OrderedChannel:
    """The state of one channel, and its messages that wait for an earlier one.

    `known` is the newest sequence that was handed over or read; None before the first `settle`.
    """

    __slots__ = ("_giving_up", "_held", "_marker", "known", "subscription")

    def __init__(self) -> None:
        self.known: int | None = None
        self._marker = (0, 0)
        self._held: list[_Arrived] = []
        self.subscription: Subscription | None = None
        #: A timer while messages wait: it hands them over though others are missing.
        self._giving_up: asyncio.TimerHandle | None = None

    def listens(self, subscription: Subscription) -> None:
        """Note the subscription by which the channel is delivered now."""
        self.subscription = subscription

    def wait(self, seconds: float, give_up: Callable[[], None]) -> None:
        """Call `give_up` after some seconds, if no earlier call has begun to wait."""
        if self._giving_up is None:
            self._giving_up = asyncio.get_running_loop().call_later(seconds, give_up)

    def stop_waiting(self) -> bool:
        """Wait no longer; True when a call of `give_up` was due."""
        giving_up, self._giving_up = self._giving_up, None
        if giving_up is not None:
            giving_up.cancel()
        return giving_up is not None

    @property
    def is_waiting(self) -> bool:
        """Something waits for an earlier message."""
        return bool(self._held) and self.known is not None

    def settle(self, sequence: int, top: int) -> list[Publication]:
        """Note the channel's newest message, and return the publications that waited for that."""
        if top != sequence:
            self._marker = (sequence, top)
        if self.known is None or sequence > self.known:
            self.known = sequence
        return self._release()

    def forget(self) -> None:
        """Begin anew with another stream."""
        self.known, self._marker = None, (0, 0)
        self._held.clear()

    def take(self, previous: int, publication: Publication) -> list[Publication]:
        """Take a publication that names the sequence before it; return those that can be handed over now, in order."""
        return self._take(_Arrived(publication.offset, previous, publication.offset, publication))

    def take_marker(self, sequence: int, previous: int, top: int) -> list[Publication]:
        """Take the mark of a removed history; return the publications that can be handed over, in order."""
        return self._take(_Arrived(sequence, previous, top, None))

    def _take(self, arrived: _Arrived) -> list[Publication]:
        if self._held and arrived.sequence < self._held[-1].sequence:
            insort(self._held, arrived, key=lambda held: held.sequence)
        else:
            self._held.append(arrived)
        return self.give_up() if len(self._held) > HELD_COUNT else self._release()

    def give_up(self) -> list[Publication]:
        """Return all that waits, in order: the messages between are not coming any more."""
        self.stop_waiting()
        return self._hand_over(self._held_now(lambda _: True))

    def _release(self) -> list[Publication]:
        return [] if self.known is None else self._hand_over(self._held_now(self._is_next))

    def _is_next(self, arrived: _Arrived) -> bool:
        known = self.known or 0
        # a previous of 0 in a channel that had messages: the one before is no longer stored
        return arrived.sequence <= known or (arrived.previous <= known and (arrived.previous > 0 or not known))

    def _held_now(self, is_taken: Callable[[_Arrived], bool]) -> list[tuple[_Arrived, int]]:
        """Take the held messages that can be handed over, each with the known sequence before it."""
        taken: list[tuple[_Arrived, int]] = []
        count = 0
        for arrived in self._held:
            if not is_taken(arrived):
                break
            count += 1
            known = self.known or 0
            if arrived.sequence > known:
                taken.append((arrived, known))
                self.known = arrived.sequence
        del self._held[:count]
        return taken

    def _hand_over(self, taken: list[tuple[_Arrived, int]]) -> list[Publication]:
        publications = []
        for arrived, known in taken:
            if arrived.publication is None:
                self._marker = (arrived.sequence, arrived.top)
                continue
            publications.append(self._linked(arrived.publication, arrived.previous, known))
        return publications

    def _linked(self, publication: Publication, previous: int, known: int) -> Publication:
        """Return the publication with the offset before it, or with the largest that it can be."""
        if previous and previous == self._marker[0]:
            previous = self._marker[1]
        elif not previous and known:
            previous = publication.offset - 1
        if previous == publication.previous:
            return publication
        return msgspec.structs.replace(publication, previous=previous)
