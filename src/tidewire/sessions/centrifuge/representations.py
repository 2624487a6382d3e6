"""Representations of single subscriptions that differ from their connection's: no offsets, deltas, filters, joins.

Equal ones are one instance, so that their subscribers share the encoded bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from tidewire.messages import Publication, WireMessage
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.filters import Wanted, compile_filter
from tidewire.protocols.centrifuge.fossil import make_delta
from tidewire.protocols.centrifuge.messages import FilterNode
from tidewire.protocols.meta import meta_of

__all__ = ("DeltaRepresentation", "EventRepresentation", "PubRepresentation", "differences", "plain")

R = TypeVar("R", bound=Representation)

_shared: WeakValueDictionary[tuple[object, ...], Representation] = WeakValueDictionary()


def shared(cls: type[R], protocol: CentrifugeProtocol, deflate: bool, *more: object, make: Callable[[], R]) -> R:
    """Return the one representation of a class with these marks."""
    key = (cls, id(protocol), deflate, *more)  # each holds its protocol, whose id therefore stays its own
    found = _shared.get(key)
    if not isinstance(found, cls):
        found = _shared[key] = make()
    return found


class PubRepresentation(Representation):
    """Publications with or without offsets, all of them or those that a filter wants."""

    __slots__ = ("_offset", "_protocol", "_wanted")

    def __init__(
        self, protocol: CentrifugeProtocol, *, deflate: bool, offset: bool = True, wanted: Wanted | None = None
    ) -> None:
        super().__init__(protocol, deflate=deflate)
        self._protocol = protocol
        self._offset = offset
        self._wanted = wanted

    def batch(self, publications: Sequence[Publication]) -> Batch:
        protocol, offset = self._protocol, self._offset
        return Batch(
            [protocol.encode_pub(pub, protocol.data_of(pub), offset=offset) for pub in self.choose(publications)],
            deflate=self.deflate,
        )

    def choose(self, publications: Sequence[Publication]) -> Sequence[Publication]:
        wanted = self._wanted
        if wanted is None:
            return publications
        return [publication for publication in publications if wanted(meta_of(publication.meta).tags)]

    def missed(self, publications: Sequence[Publication]) -> list[m.Publication]:
        """Return publications as a recovery reply holds them."""
        protocol, offset = self._protocol, self._offset
        chosen = self.choose(publications)
        return [protocol.publication_of(pub, protocol.data_of(pub), offset=offset) for pub in chosen]


class DeltaRepresentation(PubRepresentation):
    """Publications as differences to the one before.

    A subscriber begins in one whose first publication is whole, and goes on in its `then`.
    """

    __slots__ = ()

    def batch(self, publications: Sequence[Publication]) -> Batch:
        return self.batch_after(None, publications)

    def batch_after(self, last: Publication | None, publications: Sequence[Publication]) -> Batch:
        protocol = self._protocol
        base = last if self.then is None else None
        messages: list[WireMessage] = []
        for publication in publications:
            data, delta = self._difference(base, publication)
            messages.append(protocol.encode_pub(publication, data, offset=self._offset, delta=delta))
            base = publication
        return Batch(messages, deflate=self.deflate)

    def missed(self, publications: Sequence[Publication]) -> list[m.Publication]:
        base: Publication | None = None
        found = []
        for publication in publications:
            data, delta = self._difference(base, publication)
            found.append(self._protocol.publication_of(publication, data, offset=self._offset, delta=delta))
            base = publication
        return found

    def _difference(self, base: Publication | None, publication: Publication) -> tuple[bytes, bool]:
        """Return the data to send, and whether it is a patch of the publication before."""
        protocol = self._protocol
        data = protocol.data_of(publication)
        if base is not None and base.epoch == publication.epoch and base.offset == publication.previous:
            patch = make_delta(protocol.data_of(base), data)
            if patch is not None:
                return protocol.quote(patch), True
        return protocol.quote(data), False


class EventRepresentation(Representation):
    """Joins and leaves, from their own channel; or nothing, for a client that is only a member there."""

    __slots__ = ("_is_shown", "_protocol")

    def __init__(self, protocol: CentrifugeProtocol, *, deflate: bool, is_shown: bool) -> None:
        super().__init__(protocol, deflate=deflate)
        self._protocol = protocol
        self._is_shown = is_shown

    @classmethod
    def of_events(cls, protocol: CentrifugeProtocol, deflate: bool, is_shown: bool) -> EventRepresentation:
        """Return the one for a protocol."""
        return shared(cls, protocol, deflate, is_shown, make=lambda: cls(protocol, deflate=deflate, is_shown=is_shown))

    def batch(self, publications: Sequence[Publication]) -> Batch:
        pushes = [msgspec.json.decode(pub.data, type=m.Push) for pub in publications] if self._is_shown else []
        return Batch([self._protocol.encode_push(push) for push in pushes], deflate=self.deflate)


def plain(
    protocol: CentrifugeProtocol, deflate: bool, *, offset: bool, filter_node: FilterNode | None = None
) -> PubRepresentation:
    """Return the representation of publications in full; raises BadRequest for a filter that means nothing."""
    if filter_node is None:
        return _unfiltered(protocol, deflate, offset)
    wanted = compile_filter(filter_node)
    return shared(
        PubRepresentation,
        protocol,
        deflate,
        offset,
        msgspec.json.encode(filter_node),
        make=lambda: PubRepresentation(protocol, deflate=deflate, offset=offset, wanted=wanted),
    )


@lru_cache(maxsize=64)
def _unfiltered(protocol: CentrifugeProtocol, deflate: bool, offset: bool) -> PubRepresentation:
    """Return the representation of most subscriptions; cached, because many have it only for a moment."""
    return shared(
        PubRepresentation,
        protocol,
        deflate,
        offset,
        make=lambda: PubRepresentation(protocol, deflate=deflate, offset=offset),
    )


def differences(protocol: CentrifugeProtocol, deflate: bool, *, knows_last: bool) -> DeltaRepresentation:
    """Return the representation of deltas, for a subscriber that was given the channel's newest publication or not."""
    ready = shared(
        DeltaRepresentation, protocol, deflate, "ready", make=lambda: DeltaRepresentation(protocol, deflate=deflate)
    )
    if knows_last:
        return ready
    first = shared(
        DeltaRepresentation, protocol, deflate, "first", make=lambda: DeltaRepresentation(protocol, deflate=deflate)
    )
    first.then = ready
    return first
