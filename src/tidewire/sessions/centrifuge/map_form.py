"""A map as clients of the Centrifuge protocol see it: its entries in the reply, then a push for each changed key."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidewire.errors import BadRequest
from tidewire.messages import Publication, WireMessage
from tidewire.protocols.batch import Batch, Representation
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.messages import raw
from tidewire.protocols.json_text import JsonDecoder
from tidewire.protocols.map_changes import change_of
from tidewire.sessions.centrifuge.representations import shared
from tidewire.sessions.maps import Entries

__all__ = ("MAP", "STREAM", "MapRepresentation", "change_pubs", "entry_pubs", "value_of")

#: The type of a subscription to a map, and the phase in which a client asks for what it missed, not for all.
MAP, STREAM = 1, 1


def change_pubs(publications: Sequence[Publication]) -> list[m.Publication]:
    """Return the changes of entries; other publications are left out."""
    found: list[m.Publication] = []
    for one in publications:
        change = change_of(one)
        if change is None or not change.key:
            continue
        if change.removed or not isinstance(change.value, msgspec.Raw):
            found.append(m.Publication(key=change.key, removed=True, offset=one.offset))
        else:
            found.append(m.Publication(raw(bytes(change.value)), key=change.key, offset=one.offset))
    return found


def entry_pubs(entries: Entries) -> list[m.Publication]:
    """Return the entries of a map."""
    return [
        m.Publication(raw(msgspec.json.encode(entry.value)), key=entry.key, offset=entry.offset)
        for entry in entries.entries.values()
    ]


def value_of(data: bytes, depth: int) -> object:
    """Return the value that a client publishes; raises BadRequest for what is no JSON."""
    if not data:
        raise BadRequest("an entry has data; send some, or remove it")
    return JsonDecoder(object, expected="any JSON value", depth=depth).decode(data)


class MapRepresentation(Representation):
    """The changes of a map."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: CentrifugeProtocol, *, deflate: bool) -> None:
        super().__init__(protocol, deflate=deflate)
        self._protocol = protocol

    @classmethod
    def of_map(cls, protocol: CentrifugeProtocol, deflate: bool) -> MapRepresentation:
        """Return the one for a protocol."""
        return shared(cls, protocol, deflate, make=lambda: cls(protocol, deflate=deflate))

    def batch(self, publications: Sequence[Publication]) -> Batch:
        messages: list[WireMessage] = []
        for one in publications:
            messages += [self._protocol.encode_push(m.Push(one.channel, pub=pub)) for pub in change_pubs((one,))]
        return Batch(messages, deflate=self.deflate)
