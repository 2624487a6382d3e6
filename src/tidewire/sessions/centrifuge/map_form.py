"""A map as clients of the Centrifuge protocol see it: its entries in replies, then a push for each changed key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from tidewire.channel_options import MapKind
from tidewire.errors import BadRequest
from tidewire.messages import Publication, WireMessage
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.filters import Wanted, compile_filter
from tidewire.protocols.centrifuge.fossil import make_delta
from tidewire.protocols.centrifuge.messages import FilterNode, raw
from tidewire.protocols.json_text import JsonDecoder
from tidewire.protocols.map_changes import Entry, change_of
from tidewire.protocols.meta import meta_of
from tidewire.sessions.centrifuge.representations import shared

__all__ = ("KINDS", "DeltaMapRepresentation", "MapRepresentation", "value_of")

#: The kinds of maps by the numbers that the protocol has for a subscription to them.
KINDS = {1: MapKind.ENTRIES, 2: MapKind.CLIENTS, 3: MapKind.USERS}
#: The data of a removed entry where data is quoted: some clients read it there, and find JSON.
_NULL = b"null"


def value_of(data: bytes, depth: int) -> object:
    """Return the value that a client publishes; raises BadRequest for data that is no JSON."""
    if not data:
        raise BadRequest("an entry has data; send some, or remove it")
    return _decoder(depth).decode(data)


@lru_cache(maxsize=4)
def _decoder(depth: int) -> JsonDecoder:
    return JsonDecoder(Any, depth=depth)


class MapRepresentation(Representation):
    """The changes of a map, all of them or those that a filter wants.

    An entry whose tags a filter wants no more counts as removed.
    """

    __slots__ = ("_kind", "_protocol", "_wanted")

    def __init__(
        self, protocol: CentrifugeProtocol, *, deflate: bool, kind: MapKind, wanted: Wanted | None = None
    ) -> None:
        super().__init__(protocol, deflate=deflate)
        self._protocol = protocol
        self._kind = kind
        self._wanted = wanted

    @classmethod
    def of_map(
        cls, protocol: CentrifugeProtocol, deflate: bool, kind: MapKind, filter_node: FilterNode | None = None
    ) -> MapRepresentation:
        """Return the one for a protocol, a kind and a filter; raises BadRequest for a filter that means nothing."""
        marks = b"" if filter_node is None else msgspec.json.encode(filter_node)
        wanted = None if filter_node is None else compile_filter(filter_node)
        return shared(
            cls,
            protocol,
            deflate,
            kind,
            marks,
            make=lambda: cls(protocol, deflate=deflate, kind=kind, wanted=wanted),
        )

    def batch(self, publications: Sequence[Publication]) -> Batch:
        messages: list[WireMessage] = []
        for one in publications:
            messages += [self._protocol.encode_push(m.Push(one.channel, pub=pub)) for pub in self.changes((one,))]
        return Batch(messages, deflate=self.deflate)

    def changes(self, publications: Sequence[Publication]) -> list[m.Publication]:
        """Return the changes of entries as this client sees them; other publications are left out."""
        found: list[m.Publication] = []
        for one in publications:
            change = change_of(one)
            if change is None or not change.key:
                continue
            if change.removed or not isinstance(change.value, msgspec.Raw):
                found.append(self.removed(change.key, one))
                continue
            meta = meta_of(one.meta)
            if self._wanted is None or self._wanted(meta.tags):
                found.append(self.changed(change.key, bytes(change.value), one, meta.tags, meta.info))
            elif change.retagged:
                found.append(self.removed(change.key, one))
        return found

    def removed(self, key: str, publication: Publication) -> m.Publication:
        """Return the message that an entry was removed."""
        return m.Publication(key=key, removed=True, offset=publication.offset)

    def changed(
        self, key: str, value: bytes, publication: Publication, tags: dict[str, str], publisher: m.ClientInfo | None
    ) -> m.Publication:
        """Return the message of a new value."""
        return self._shown(key, value, publication.offset, tags, publisher)

    def entries(self, entries: Iterable[Entry], most: int) -> tuple[list[m.Publication], str]:
        """Return entries as a reply of so many bytes holds them, and the key after which the others come ("": none).

        They are those that a filter wants. One that is larger than the reply comes alone.
        """
        shown: list[m.Publication] = []
        last, size = "", 0
        for entry in entries:
            if self._wanted is None or self._wanted(entry.tags):
                data = self._data(msgspec.json.encode(entry.value))
                size += len(data) + len(entry.key)
                if shown and size > most:
                    return shown, last
                shown.append(self._shown(entry.key, data, entry.offset, entry.tags, entry.publisher))
            last = entry.key
        return shown, ""

    def _data(self, value: bytes) -> bytes:
        return value

    def _shown(
        self,
        key: str,
        data: bytes,
        offset: int,
        tags: dict[str, str],
        publisher: m.ClientInfo | None,
        *,
        delta: bool = False,
    ) -> m.Publication:
        if self._kind is MapKind.CLIENTS:
            return m.Publication(key=key, info=msgspec.json.decode(data, type=m.ClientInfo), offset=offset)
        if self._kind is MapKind.USERS:
            return m.Publication(key=key, offset=offset)
        return m.Publication(raw(data), publisher, offset, tags, delta, key=key)


class DeltaMapRepresentation(MapRepresentation):
    """The changes of one map as differences to the value that its key had before.

    All subscribers share the differences, so one is made only to a value that each of them has: each was given all
    entries when it began, or every change since. `seed` and `forget` say which. Pages of missed changes are whole.
    """

    __slots__ = ("_is_live", "_is_seedable", "_reached", "_values")

    def __init__(self, protocol: CentrifugeProtocol, *, deflate: bool) -> None:
        super().__init__(protocol, deflate=deflate, kind=MapKind.ENTRIES)
        #: The values of keys at an offset; others are pushed whole.
        self._values: dict[str, bytes] = {}
        self._reached = -1
        self._is_seedable = True
        self._is_live = False

    @classmethod
    def of_channel(cls, protocol: CentrifugeProtocol, deflate: bool, channel: str) -> DeltaMapRepresentation:
        """Return the one for the map in a channel."""
        return shared(cls, protocol, deflate, channel, make=lambda: cls(protocol, deflate=deflate))

    def seed(self, entries: Iterable[Entry], offset: int) -> None:
        """Take note of the entries that a new subscriber is given."""
        if self._is_seedable and self._reached < offset:
            self._values = {entry.key: msgspec.json.encode(entry.value) for entry in entries}
            self._reached = offset

    def forget(self) -> None:
        """Begin anew, for a subscriber with values that are not known here."""
        self._values.clear()
        self._is_seedable = False

    def batch_after(self, last: Publication | None, publications: Sequence[Publication]) -> Batch:
        messages: list[WireMessage] = []
        try:
            for one in publications:
                self._advance(one)
                messages += [self._protocol.encode_push(m.Push(one.channel, pub=pub)) for pub in self.changes((one,))]
        finally:
            self._is_live = False
        return Batch(messages, deflate=self.deflate)

    def _advance(self, publication: Publication) -> None:
        """Come to the next publication of the channel, if it is that; otherwise it is shown whole."""
        self._is_live = publication.offset > self._reached
        if self._is_live:
            if publication.previous > self._reached:
                self._values.clear()
            self._reached = publication.offset

    def changed(
        self, key: str, value: bytes, publication: Publication, tags: dict[str, str], publisher: m.ClientInfo | None
    ) -> m.Publication:
        base = self._values.get(key) if self._is_live else None
        patch = None if base is None else make_delta(base, value)
        if self._is_live:
            self._values[key] = value
        data = self._protocol.quote(value if patch is None else patch)
        return self._shown(key, data, publication.offset, tags, publisher, delta=patch is not None)

    def removed(self, key: str, publication: Publication) -> m.Publication:
        if self._is_live:
            self._values.pop(key, None)
        return m.Publication(raw(self._protocol.quote(_NULL)), key=key, removed=True, offset=publication.offset)

    def _data(self, value: bytes) -> bytes:
        return self._protocol.quote(value)
