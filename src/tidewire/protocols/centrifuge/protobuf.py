"""Messages as Protobuf (proto3), and back; lengths that strangers send are checked before they are used."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import compress
from typing import Any, TypeVar, cast

from msgspec import Raw, Struct
from msgspec.structs import astuple

from tidewire.protocols.centrifuge.codes import Malformed, MalformedFrame
from tidewire.protocols.centrifuge.fields import Field, Kind, schema_of
from tidewire.protocols.centrifuge.messages import EMPTY, ClientInfo, Publication

__all__ = (
    "decode_frame",
    "decode_message",
    "decode_publish",
    "encode_delimited",
    "encode_fields",
    "encode_message",
    "varint",
)

M = TypeVar("M", bound=Struct)

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
#: Nearly all numbers are short: lengths, offsets.
_ONE_BYTE = tuple(bytes((number,)) for number in range(0x80))
_pack_two, _pack_three = struct.Struct("BB").pack, struct.Struct("BBB").pack
#: Kinds as globals, for every field: an attribute of an enumeration is dear. Those up to BOOL are numbers.
_UINT32, _INT, _BOOL = Kind.UINT32, Kind.INT, Kind.BOOL
_TEXT, _BYTES, _MESSAGE = Kind.TEXT, Kind.BYTES, Kind.MESSAGE


def varint(number: int) -> bytes:
    """Return a number from 0 on in base 128, lowest first."""
    if number < 0x80:
        return _ONE_BYTE[number]
    if number < 0x4000:
        return _pack_two(number & 0x7F | 0x80, number >> 7)
    if number < 0x20_0000:
        return _pack_three(number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14)
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


# Writing.


def encode_message(message: Struct) -> bytes:
    """Return a message without its length."""
    if type(message) is Publication:  # replies hold thousands of these two, and are made in one turn of the loop
        return _encode_publication(message)
    return _encode_client(message) if type(message) is ClientInfo else encode_fields(message)


def _encode_publication(message: Publication) -> bytes:
    if message.tags or message.delta or message.time or message.channel or message.removed or message.version:
        return encode_fields(message)
    data, offset, key = bytes(message.data), message.offset, message.key
    parts = b"\x22" + varint(len(data)) + data if data else b""
    if message.info is not None:
        info = _encode_client(message.info)
        parts += b"\x2a" + varint(len(info)) + info
    if offset:
        parts += b"\x30" + varint(offset)
    if not key:
        return parts
    name = key.encode()
    return parts + b"\x5a" + varint(len(name)) + name


def _encode_client(message: ClientInfo) -> bytes:
    user, client = message.user.encode(), message.client.encode()
    conn, chan = bytes(message.conn_info), bytes(message.chan_info)
    parts = b"\x0a" + varint(len(user)) + user if user else b""
    if client:
        parts += b"\x12" + varint(len(client)) + client
    if conn:
        parts += b"\x1a" + varint(len(conn)) + conn
    return parts + b"\x22" + varint(len(chan)) + chan if chan else parts


def encode_fields(message: Struct) -> bytes:
    """Return any message without its length, field by field."""
    parts: list[bytes] = []
    values = astuple(message)
    for field, value in compress(zip(schema_of(type(message)).fields, values, strict=True), values):  # most are zero
        if value is not EMPTY:
            _WRITERS[field.kind](parts, field.key, value)
    return b"".join(parts)


def encode_delimited(message: Struct) -> bytes:
    """Return a message behind its length."""
    data = encode_message(message)
    return varint(len(data)) + data


def _write_number(parts: list[bytes], key: bytes, value: int) -> None:
    parts += (key, varint(value & 0xFFFF_FFFF_FFFF_FFFF))


def _write_text(parts: list[bytes], key: bytes, value: str) -> None:
    parts += (key, _delimited(value.encode()))


def _write_bytes(parts: list[bytes], key: bytes, value: Raw) -> None:
    if content := bytes(value):
        parts += (key, _delimited(content))


def _write_message(parts: list[bytes], key: bytes, value: Struct) -> None:
    parts += (key, encode_delimited(value))


def _write_texts(parts: list[bytes], key: bytes, value: list[str]) -> None:
    for text in value:
        parts += (key, _delimited(text.encode()))


def _write_messages(parts: list[bytes], key: bytes, value: list[Struct]) -> None:
    for message in value:
        parts += (key, encode_delimited(message))


def _write_texts_by_name(parts: list[bytes], key: bytes, value: dict[str, str]) -> None:
    for name, text in value.items():
        _write_entry(parts, key, name, text.encode())


def _write_messages_by_name(parts: list[bytes], key: bytes, value: dict[str, Struct]) -> None:
    for name, message in value.items():
        _write_entry(parts, key, name, encode_message(message))


def _write_entry(parts: list[bytes], key: bytes, name: str, content: bytes) -> None:
    parts += (key, _delimited(b"\x0a" + _delimited(name.encode()) + b"\x12" + _delimited(content)))


#: The writers of all kinds, in the order of the kinds.
_WRITERS: tuple[Callable[[list[bytes], bytes, Any], None], ...] = (
    *[_write_number] * 4,
    _write_text,
    _write_bytes,
    _write_message,
    _write_texts,
    _write_messages,
    _write_texts_by_name,
    _write_messages_by_name,
)


def _delimited(data: bytes) -> bytes:
    return varint(len(data)) + data


# Reading.


def decode_frame(cls: type[M], data: bytes, *, depth: int) -> list[M]:
    """Return the messages of a frame, each behind its length; raises MalformedFrame."""
    found, at = [], 0
    while at < len(data):
        size, at = _read_varint(data, at, len(data))
        if size > len(data) - at:
            raise MalformedFrame(Malformed.TRUNCATED)
        found.append(_read(cls, data, at, at + size, depth))
        at += size
    return found


def decode_publish(data: bytes) -> tuple[int, str, bytes] | None:
    """Return the id, channel and data of a frame that is one publish command in the usual order of its fields.

    Busy clients send mostly such frames. Return None for any other, which `decode_frame` reads.
    """
    size = len(data)
    try:
        length, at = _read_varint(data, 0, size)
        if length != size - at or data[at] != 0x08:  # Command.id: field 1
            return None
        number, at = _read_varint(data, at + 1, size)
        length, at = _read_varint(data, at + 1, size) if data[at] == 0x3A else (-1, at)  # publish: field 7
        if length != size - at or data[at] != 0x0A:  # PublishRequest.channel: field 1
            return None
        length, at = _read_varint(data, at + 1, size)
        channel, at = data[at : at + length], at + length
        length, at = _read_varint(data, at + 1, size) if data[at] == 0x12 else (-1, at)  # data: field 2
        return (number & 0xFFFF_FFFF, channel.decode(), data[at:]) if length == size - at else None
    except (IndexError, UnicodeDecodeError, MalformedFrame):
        return None


def decode_message(cls: type[M], data: bytes, *, depth: int = 64) -> M:
    """Return one message without its length; raises MalformedFrame."""
    return _read(cls, data, 0, len(data), depth)


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    if at + 1 < end and data[at + 1] < 0x80:
        return data[at] & 0x7F | data[at + 1] << 7, at + 2
    number = shift = 0
    for position in range(at, min(end, at + _LONGEST_VARINT)):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, position + 1
        shift += 7
    raise MalformedFrame(Malformed.BAD_VARINT if end - at >= _LONGEST_VARINT else Malformed.TRUNCATED)


def _read(cls: type[M], data: bytes, at: int, end: int, depth: int) -> M:
    if depth <= 0:
        raise MalformedFrame(Malformed.TOO_DEEP)
    schema = schema_of(cls)
    values: dict[str, Any] = {}
    while at < end:
        tag, at = (data[at], at + 1) if data[at] < 0x80 else _read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        field = schema.by_number.get(number)
        if not 0 < number < 1 << 29:
            raise MalformedFrame(Malformed.BAD_TAG)
        if wire == _VARINT:
            value, at = _read_varint(data, at, end)
            if field is not None and field.kind <= _BOOL:
                values[field.name] = _number(field.kind, value)
            continue
        start, at = _skip(wire, data, at, end)
        if field is not None and wire == _LENGTH and field.kind > _BOOL:
            _take(values, field, data, start, at, depth)
    for name, field in schema.required.items():
        if name not in values:
            values[name] = _nothing(field)
    return cls(**values)


def _skip(wire: int, data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the places at which a field's content begins and ends."""
    if wire == _LENGTH:
        size, at = _read_varint(data, at, end)
    elif wire == _FIXED64:
        size = 8
    elif wire == _FIXED32:
        size = 4
    else:
        raise MalformedFrame(Malformed.BAD_TAG)
    if size > end - at:
        raise MalformedFrame(Malformed.TRUNCATED)
    return at, at + size


def _number(kind: Kind, value: int) -> int | bool:
    if kind is _BOOL:
        return value != 0
    if kind is _UINT32:
        return value & 0xFFFF_FFFF
    if kind is _INT and value >= 1 << 63:
        return value - (1 << 64)
    return value


def _nothing(field: Field) -> Any:
    if field.kind is Kind.MESSAGES:
        return []
    if field.kind is Kind.MESSAGE_MAP:
        return {}
    return field.zero if field.cls is None else _read(field.cls, b"", 0, 0, 1)


def _take(values: dict[str, Any], field: Field, data: bytes, start: int, end: int, depth: int) -> None:
    kind, name = field.kind, field.name
    if kind is _TEXT:
        values[name] = _text(data[start:end])
    elif kind is _BYTES:
        values[name] = Raw(data[start:end]) if end > start else EMPTY
    elif kind is _MESSAGE:
        values[name] = _read(cast(type[Struct], field.cls), data, start, end, depth - 1)
    elif kind is Kind.TEXTS:
        values.setdefault(name, []).append(_text(data[start:end]))
    elif kind is Kind.MESSAGES:
        values.setdefault(name, []).append(_read(cast(type[Struct], field.cls), data, start, end, depth - 1))
    else:
        key, value = _read_entry(field, data, start, end, depth)
        values.setdefault(name, {})[key] = value


def _read_entry(field: Field, data: bytes, at: int, end: int, depth: int) -> tuple[str, Any]:
    """Return one entry of a map: a message with the key as field 1 and the value as field 2."""
    key, content = "", b""
    while at < end:
        tag, at = _read_varint(data, at, end)
        if tag & 7 == _VARINT:
            _, at = _read_varint(data, at, end)
            continue
        start, at = _skip(tag & 7, data, at, end)
        if tag == 0x0A:
            key = _text(data[start:at])
        elif tag == 0x12:
            content = data[start:at]
    if field.cls is None:
        return key, _text(content)
    return key, _read(field.cls, content, 0, len(content), depth - 1)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedFrame(Malformed.NOT_TEXT) from None
