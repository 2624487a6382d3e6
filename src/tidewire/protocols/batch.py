"""The publications of one channel in one turn of the loop, prepared once for each representation in use."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from tidewire.messages import Publication, WireMessage
from tidewire.protocols.base import Protocol
from tidewire.protocols.compression import deflated
from tidewire.protocols.line_ends import one_line

__all__ = ("Batch", "Representation", "frame")

_FIN_TEXT, _FIN_BINARY, _RSV1 = 0x81, 0x82, 0x40
_pack_8, _pack_16, _pack_64 = struct.Struct("!BB").pack, struct.Struct("!BBH").pack, struct.Struct("!BBQ").pack


def frame(data: bytes, binary: bool, deflate: bool = False) -> bytes:
    """Return one message as one unmasked server frame (RFC 6455 section 5.2; deflated: RFC 7692 section 7.2.1)."""
    first = _FIN_BINARY if binary else _FIN_TEXT
    if deflate:
        data = deflated(data)
        first |= _RSV1
    size = len(data)
    if size < 126:
        return _pack_8(first, size) + data
    if size < 65_536:
        return _pack_16(first, 126, size) + data
    return _pack_64(first, 127, size) + data


class Representation:
    """A codec, a framing and a compression: connections that share all three are given the same bytes.

    Compared by identity; `of` returns the same object for the same pair. A subscription that begins in a representation
    with a `then` changes to that one after its first publications.
    """

    __slots__ = ("__weakref__", "deflate", "protocol", "then")

    #: The representations in use; each holds its protocol, so that the id of that is not given again.
    _known: WeakValueDictionary[tuple[int, bool], Representation] = WeakValueDictionary()

    def __init__(self, protocol: Protocol[Any], *, deflate: bool = False) -> None:
        self.protocol = protocol
        self.deflate = deflate
        self.then: Representation | None = None

    @classmethod
    def of(cls, protocol: Protocol[Any], *, deflate: bool = False) -> Representation:
        """Return the representation of a protocol instance."""
        key = (id(protocol), deflate)
        found = cls._known.get(key)
        if found is None:
            found = cls._known[key] = cls(protocol, deflate=deflate)
        return found

    def batch(self, publications: Sequence[Publication]) -> Batch:
        """Encode publications; framing and joining wait until a link asks for them."""
        return Batch(self.protocol.encode_publications(publications), deflate=self.deflate)

    def choose(self, publications: Sequence[Publication]) -> Sequence[Publication]:
        """Return the publications that its subscribers want."""
        return publications

    def batch_after(self, last: Publication | None, publications: Sequence[Publication]) -> Batch:
        """Encode publications for subscribers that have all been given `last`, if there is one."""
        return self.batch(publications)

    def direct(self, *messages: WireMessage) -> Batch:
        """Make a batch of messages that belong to no channel."""
        return Batch(list(messages), deflate=self.deflate)


class Batch:
    """Encoded messages in one representation: `joined` for a raw writer, `asgi` for an ASGI link; each made once."""

    __slots__ = ("_asgi", "_deflate", "_delimited", "frames", "messages", "size")

    def __init__(self, messages: list[WireMessage], *, deflate: bool = False) -> None:
        self.messages = messages
        #: Bytes of the payloads, without framing.
        self.size = len(messages[0].data) if len(messages) == 1 else sum([len(message.data) for message in messages])
        self._deflate = deflate
        #: The value of `joined`, once it was asked for.
        self.frames = b""
        self._asgi: list[dict[str, Any]] | None = None
        self._delimited: dict[tuple[bytes, bytes], bytes] | None = None

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def joined(self) -> bytes:
        """All frames in one buffer, ready for a socket."""
        if not self.frames:
            deflate, messages = self._deflate, self.messages
            framed = [frame(one.data, one.binary, deflate) for one in messages]
            self.frames = framed[0] if len(framed) == 1 else b"".join(framed)
        return self.frames

    def delimited(self, before: bytes, after: bytes, *, lines: bool = False) -> bytes:
        """Return all payloads in one buffer for a stream of bytes, each between two delimiters.

        With `lines`, each line of a payload gets delimiters of its own; `lines` is always the same for one pair of
        delimiters. Payloads between delimiters are JSON: what some readers take for the end of a line is escaped.
        """
        made = self._delimited
        if made is None:
            made = self._delimited = {}
        found = made.get((before, after))
        if found is None:
            payloads = [message.data for message in self.messages]
            if lines:
                payloads = [payload.replace(b"\n", after + before) for payload in payloads]
            found = b"".join([before + payload + after for payload in payloads])
            found = made[before, after] = one_line(found) if after else found
        return found

    @property
    def asgi(self) -> list[dict[str, Any]]:
        """One `websocket.send` event for each message (ASGI WebSocket specification)."""
        events = self._asgi
        if events is None:
            events = self._asgi = [
                {"type": "websocket.send", "bytes": message.data}
                if message.binary
                else {"type": "websocket.send", "text": message.data.decode(errors="replace")}
                for message in self.messages
            ]
        return events
