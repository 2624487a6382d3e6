"""The plain protocol: a publication is sent as it is, as text or binary; a message of a client is published."""

from __future__ import annotations

from collections.abc import Sequence

from tidewire.errors import CommandError
from tidewire.messages import Dropped, Format, Publication, Subscribed, WireMessage
from tidewire.protocols.base import Protocol, to_utf8
from tidewire.protocols.native_commands import Publish

__all__ = ("PLAIN", "PlainProtocol")


_BINARY = Format.BINARY  # as a global, for every message: an attribute of an enumeration is dear


class PlainProtocol(Protocol[Publish]):
    """Raw text and bytes, in both directions.

    It has no room for offsets: a client that must recover by itself needs another protocol. A client that has a gap
    cannot be told of it, so it is disconnected, and begins anew from the channel's history.
    """

    def decode(self, message: str | bytes) -> Sequence[Publish]:
        if isinstance(message, str):
            return (Publish(to_utf8(message), Format.TEXT),)
        return (Publish(message, Format.BINARY),)

    def encode_publication(self, publication: Publication) -> WireMessage:
        return WireMessage(publication.data, publication.format is _BINARY)

    def encode_publications(self, publications: Sequence[Publication]) -> list[WireMessage]:
        if type(self).encode_publication is not _encode_publication:  # an application's class has its own form
            return super().encode_publications(publications)
        return [WireMessage(one.data, one.format is _BINARY) for one in publications]

    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        return self.encode_publications(reply.publications)

    def encode_error(self, error: CommandError) -> WireMessage:
        return WireMessage(f"error: {error}".encode())

    def encode_pong(self) -> WireMessage | None:
        return None

    def encode_dropped(self, push: Dropped) -> WireMessage:
        return WireMessage(f"error: {push.count} messages were dropped, this connection is too slow".encode())


_encode_publication = PlainProtocol.encode_publication
#: The instance that connections share unless they ask for another.
PLAIN = PlainProtocol()
