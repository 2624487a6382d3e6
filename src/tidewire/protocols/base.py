"""The contract of a protocol: pure functions between wire messages and values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from tidewire.errors import BadRequest, CommandError, Disconnect
from tidewire.messages import Dropped, Publication, Subscribed, WireMessage

__all__ = ("Protocol", "to_utf8")

C = TypeVar("C")


class Protocol(ABC, Generic[C]):
    """Encodes and decodes one dialect; stateless, so that one instance serves every connection.

    Connections with the same protocol instance share their encoded publications.
    """

    #: The WebSocket subprotocol (RFC 6455 section 1.9) that names this dialect, if it has one.
    subprotocol: str | None = None

    @abstractmethod
    def decode(self, message: str | bytes) -> Sequence[C]:
        """Decode one inbound message into commands; raises CommandError for one that is none."""

    @abstractmethod
    def encode_publication(self, publication: Publication) -> WireMessage | None:
        """Encode one publication for a push; return None for one that the dialect cannot express, which is left out."""

    def encode_publications(self, publications: Sequence[Publication]) -> list[WireMessage]:
        """Encode publications of one channel, each as `encode_publication` does."""
        encode = self.encode_publication
        return [message for one in publications if (message := encode(one)) is not None]

    @abstractmethod
    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        """Encode the reply to a subscribe, with its publications."""

    @abstractmethod
    def encode_error(self, error: CommandError) -> WireMessage:
        """Encode the answer to a command that failed."""

    def encode_refusal(self, error: CommandError, message: str | bytes) -> WireMessage:
        """Encode the answer to a message that was not handled, decodable or not; a dialect with ids names the message.

        Never raises, not even for a message that cannot be decoded.
        """
        return self.encode_error(error)

    @abstractmethod
    def encode_pong(self) -> WireMessage | None:
        """Encode the answer to the dialect's own ping, if it has one."""

    @abstractmethod
    def encode_dropped(self, push: Dropped) -> WireMessage:
        """Encode the notice that publications were dropped for a slow subscriber."""

    def encode_insufficient(self, channel: str) -> WireMessage | None:
        """Encode the notice that a gap could not be filled; None: the connection is disconnected instead."""
        return None

    def close_code(self, disconnect: Disconnect) -> tuple[int, str]:
        """Return the close code and reason (at most 123 bytes) that tell the client of a disconnect."""
        return disconnect.code, disconnect.reason


def to_utf8(text: str) -> bytes:
    """Return text as UTF-8; raises BadRequest for a lone surrogate, which UTF-8 cannot encode."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRequest("the text has a lone surrogate, which UTF-8 cannot encode; replace it") from None
