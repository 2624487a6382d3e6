"""The two encodings of the Centrifuge protocol, for connections that speak and for those that only listen."""

from __future__ import annotations

from abc import abstractmethod
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from tidewire.channels import CONTROL, is_personal
from tidewire.errors import CommandError, Disconnect
from tidewire.limits import Limits
from tidewire.messages import Dropped, Format, Publication, Subscribed, WireMessage
from tidewire.protocols.base import Protocol
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame, disconnect_of, error_of
from tidewire.protocols.centrifuge.messages import Command, Push, Reply, raw
from tidewire.protocols.centrifuge.protobuf import (
    decode_frame,
    decode_publish,
    encode_delimited,
    encode_message,
    varint,
)
from tidewire.protocols.json_text import decode_leniently, has_huge_number, is_deeper, with_whole_characters
from tidewire.protocols.meta import PublicationMeta, meta_of

__all__ = ("CentrifugeJson", "CentrifugeProtobuf", "CentrifugeProtocol")

_encode = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_JSON = Format.JSON  # as a global, for every message: an attribute of an enumeration is dear
_BREAKS = b"\r\n"
#: Fields of a publication's `meta` that are not shown to clients.
_OWN_FIELDS = (b'"version', b'"skip_history"', b'"but_not"', b'"claim"', b'"trace"', b'"change"')
#: Bytes as numbers: a search for one byte is ten times as fast as one for bytes of length one.
_CR, _LF = _BREAKS


class CentrifugeProtocol(Protocol[Command]):
    """The common part of both encodings. An instance for clients that only listen (`one_way`) writes bare pushes.

    Publications of plain text reach a client as a JSON string, bytes as a JSON string in base64 (RFC 4648); in
    Protobuf both are the bytes themselves.
    """

    #: The ping, which is an empty message.
    ping: WireMessage

    def __init__(self, *, one_way: bool = False, json_depth: int = Limits().json_depth) -> None:
        self.one_way = one_way
        self._depth = json_depth

    @abstractmethod
    def encode_replies(self, replies: Sequence[Reply]) -> WireMessage:
        """Encode replies into one frame."""

    @abstractmethod
    def encode_published(self, command: int) -> WireMessage:
        """Encode the reply to a publish whose message is kept."""

    @abstractmethod
    def encode_push(self, push: Push) -> WireMessage:
        """Encode one push."""

    @abstractmethod
    def encode_pub(self, publication: Publication, data: bytes, *, offset: bool, delta: bool = False) -> WireMessage:
        """Encode one publication with data that `data_of`, `quote` or a delta made; `offset`: with its offset."""

    @abstractmethod
    def data_of(self, publication: Publication) -> bytes:
        """Return a publication's data as this encoding writes it."""

    @abstractmethod
    def format_of(self, data: bytes) -> Format:
        """Return the format of data that a client publishes."""

    @abstractmethod
    def quote(self, data: bytes) -> bytes:
        """Return the data for a subscriber to deltas: a payload, or a patch."""

    def encode_publication(self, publication: Publication) -> WireMessage:
        return self.encode_pub(publication, self.data_of(publication), offset=True)

    @abstractmethod
    def encode_reply(self, reply: Reply) -> WireMessage:
        """Encode one reply."""

    def encode_subscribed(self, reply: Subscribed) -> list[WireMessage]:
        """Encode the notice of a subscription that the server has made, and its publications."""
        position = reply.position
        found = m.Subscribe(recoverable=True, positioned=True, epoch=position.epoch, offset=position.offset)
        pushes = [self.encode_publication(publication) for publication in reply.publications]
        return [self.encode_push(Push(reply.channel, subscribe=found)), *pushes]

    def encode_error(self, error: CommandError) -> WireMessage:
        found = error_of(error)
        return self._tell({"type": "error", "code": found.code, "message": str(error) or found.message})

    def encode_refusal(self, error: CommandError, message: str | bytes) -> WireMessage:
        try:
            commands = self.decode(message)
        except MalformedFrame:
            return self.encode_error(error)
        found = m.Error(*error_of(error))
        replies = [Reply(command.id, error=found) for command in commands if command.id]
        return self.encode_replies(replies) if replies else self.encode_error(error)

    def encode_pong(self) -> WireMessage | None:
        return None

    def encode_dropped(self, push: Dropped) -> WireMessage:
        return self._tell({"type": "dropped", "channel": push.channel, "count": push.count})

    def encode_disconnect(self, code: int, reason: str) -> WireMessage:
        """Encode the end of a connection, for transports that have no close frame."""
        return self.encode_push(Push(disconnect=m.Disconnect(code, reason)))

    def close_code(self, disconnect: Disconnect) -> tuple[int, str]:
        found = disconnect_of(disconnect)
        return found.code, found.reason

    def publication_of(
        self, publication: Publication, data: bytes, *, offset: bool, delta: bool = False
    ) -> m.Publication:
        """Return a publication as a message, with data made as for `encode_pub`."""
        meta = meta_of(publication.meta)
        return m.Publication(raw(data), meta.info, publication.offset if offset else 0, meta.tags, delta)

    def _tell(self, value: dict[str, Any]) -> WireMessage:
        return self.encode_push(Push(message=m.Message(raw(_encode(value)))))


def _is_message(channel: str) -> bool:
    """Return whether a publication is for every client, with no regard to its channels."""
    return channel.startswith("$") and (channel == CONTROL or is_personal(channel))


class CentrifugeJson(CentrifugeProtocol):
    """JSON in text frames: objects joined by a line feed."""

    subprotocol = "centrifuge-json"
    ping = WireMessage(b"{}")

    def __init__(self, *, one_way: bool = False, json_depth: int = Limits().json_depth) -> None:
        super().__init__(one_way=one_way, json_depth=json_depth)
        self._decode = msgspec.json.Decoder(Command).decode
        self._open, self._shut = (b'{"channel":', b"}}") if one_way else (b'{"push":{"channel":', b"}}}")

    def decode(self, message: str | bytes) -> Sequence[Command]:
        try:
            data = message.encode() if isinstance(message, str) else message.decode().encode()
        except UnicodeError:
            raise MalformedFrame(Malformed.NOT_TEXT) from None
        if data[:1] == b"{" and _LF not in data:  # nearly always: one command
            return [self._decode_line(data)]
        data = data.removesuffix(b"\n")
        if _LF not in data and data.strip():
            return [self._decode_line(data)]
        lines = data.split(b"\n")
        if not all(map(bytes.strip, lines)):
            raise MalformedFrame(Malformed.BLANK_LINE if any(lines) else Malformed.EMPTY_FRAME)
        return [self._decode_line(line) for line in lines]

    def _decode_line(self, line: bytes) -> Command:
        if line.count(b"{") + line.count(b"[") > self._depth and is_deeper(line, self._depth):
            raise MalformedFrame(Malformed.TOO_DEEP)
        if has_huge_number(line):
            raise MalformedFrame(Malformed.NOT_JSON)
        try:
            return decode_leniently(self._decode, line)
        except msgspec.ValidationError:
            raise MalformedFrame(Malformed.WRONG_SHAPE) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedFrame(Malformed.NOT_JSON) from None

    def encode_published(self, command: int) -> WireMessage:
        return WireMessage(b'{"id":%d,"publish":{}}' % command)

    def encode_replies(self, replies: Sequence[Reply]) -> WireMessage:
        return WireMessage(b"\n".join([_encode(reply) for reply in replies]))

    def encode_reply(self, reply: Reply) -> WireMessage:
        return WireMessage(_encode(reply))

    def encode_push(self, push: Push) -> WireMessage:
        return WireMessage(_encode(push if self.one_way else Reply(push=push)))

    def encode_publication(self, publication: Publication) -> WireMessage:
        return self.encode_publications((publication,))[0]

    def encode_publications(self, publications: Sequence[Publication]) -> list[WireMessage]:
        # the hot path: as `encode_pub` would, with what they have in common made once
        channel = publications[0].channel if publications else ""
        head = b'%b%b,"pub":{"data":' % (self._open, _encode(channel))
        meta, tail = b"", self._shut
        messages = []
        for one in publications:
            data, offset = one.data, one.offset
            if one.format is not _JSON or _LF in data or _CR in data:
                data = self.data_of(one)
            if not offset or one.channel[0] == "$":
                messages.append(self.encode_pub(one, data, offset=True))
                continue
            if one.meta != meta:
                meta = one.meta
                tail = (_shown_fields(meta) if meta else b"") + self._shut
            messages.append(WireMessage(b'%b%b,"offset":%d%b' % (head, data, offset, tail)))
        return messages

    def encode_pub(self, publication: Publication, data: bytes, *, offset: bool, delta: bool = False) -> WireMessage:
        if _is_message(publication.channel):
            return self.encode_push(Push(message=m.Message(raw(data))))
        fields = b'"data":' + data
        if offset and publication.offset:  # an ephemeral one has none
            fields += b',"offset":%d' % publication.offset
        if delta:
            fields += b',"delta":true'
        if publication.meta:
            fields += _shown_fields(publication.meta)
        return WireMessage(b'%b%b,"pub":{%b%b' % (self._open, _encode(publication.channel), fields, self._shut))

    def data_of(self, publication: Publication) -> bytes:
        if publication.format is Format.JSON:
            # a line feed stands between tokens only, so the JSON means the same without it
            return publication.data.translate(None, _BREAKS)
        if publication.format is Format.TEXT:
            return self.quote(publication.data)
        return b'"%b"' % b64encode(publication.data)

    def format_of(self, data: bytes) -> Format:
        return _JSON

    def quote(self, data: bytes) -> bytes:
        return _encode(data.decode(errors="replace"))


@lru_cache(maxsize=256)
def _shown_fields(meta: bytes) -> bytes:
    """Return the fields in a `meta` that are for clients; cached, because a busy publisher repeats them.

    The other fields are the server's own.
    """
    if any(name in meta for name in _OWN_FIELDS):
        found = meta_of(meta)
        meta = PublicationMeta(found.info, found.tags).encode()
    return b"," + meta[1:-1] if len(meta) > 2 else b""


@lru_cache(maxsize=256)
def _encode_meta(meta: bytes) -> bytes:
    """Return the fields of a publication that its `meta` has; cached, because a busy publisher repeats them."""
    found = meta_of(meta)
    return encode_message(m.Publication(info=found.info, tags=found.tags))


class CentrifugeProtobuf(CentrifugeProtocol):
    """Protobuf in binary frames: messages, each behind its length."""

    subprotocol = "centrifuge-protobuf"
    ping = WireMessage(b"\x00", binary=True)

    def decode(self, message: str | bytes) -> Sequence[Command]:
        if isinstance(message, str):
            raise MalformedFrame(Malformed.TEXT_FRAME)
        if not message:
            raise MalformedFrame(Malformed.EMPTY_FRAME)
        usual = decode_publish(message)
        if usual is not None:
            number, channel, data = usual
            return (Command(number, publish=m.PublishRequest(channel, raw(data))),)
        return decode_frame(Command, message, depth=self._depth)

    def encode_published(self, command: int) -> WireMessage:
        done = b"\x08%b\x42\x00" % varint(command)  # Reply.id: field 1, publish: field 8, empty
        return WireMessage(varint(len(done)) + done, binary=True)

    def encode_replies(self, replies: Sequence[Reply]) -> WireMessage:
        return WireMessage(b"".join([encode_delimited(reply) for reply in replies]), binary=True)

    def encode_reply(self, reply: Reply) -> WireMessage:
        return WireMessage(encode_delimited(reply), binary=True)

    def encode_push(self, push: Push) -> WireMessage:
        return WireMessage(encode_delimited(push if self.one_way else Reply(push=push)), binary=True)

    def encode_pub(self, publication: Publication, data: bytes, *, offset: bool, delta: bool = False) -> WireMessage:
        if _is_message(publication.channel):
            return self.encode_push(Push(message=m.Message(raw(data))))
        pub = b"\x22%b%b" % (varint(len(data)), data) if data else b""  # Publication.data is field 4
        if offset and publication.offset:
            pub += b"\x30" + varint(publication.offset)  # offset: field 6
        if delta:
            pub += b"\x40\x01"  # delta: field 8
        if publication.meta:
            pub += _encode_meta(publication.meta)
        name = publication.channel.encode()
        push = b"\x12%b%b\x22%b%b" % (varint(len(name)), name, varint(len(pub)), pub)  # Push.channel 2, pub 4
        if not self.one_way:
            push = b"\x22" + varint(len(push)) + push  # Reply.push: field 4
        return WireMessage(varint(len(push)) + push, binary=True)

    def data_of(self, publication: Publication) -> bytes:
        return publication.data

    def format_of(self, data: bytes) -> Format:
        """Return JSON for data that the other encoding takes as JSON, so that its clients can read it; else bytes."""
        try:
            _check_json(data.decode())
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
            return Format.BINARY
        if has_huge_number(data) or with_whole_characters(data) is not data:
            return Format.BINARY
        may_be_deep = data.count(b"{") + data.count(b"[") > self._depth
        return Format.BINARY if may_be_deep and is_deeper(data, self._depth) else Format.JSON

    def quote(self, data: bytes) -> bytes:
        return data
