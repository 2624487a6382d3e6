"""The entries of a stream, each a publication, and the pub/sub messages that hold several of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tidewire.messages import Format, Publication, PublishRequest

__all__ = ("EPHEMERAL", "pack", "unpack", "unpack_message")

#: A message of pub/sub that begins so holds publications that nobody keeps: an epoch is never so long.
EPHEMERAL = b"\xff\xff"
_HEAD = struct.Struct(">BI")
_SIZE = struct.Struct(">I")
_EPOCH = struct.Struct(">H")
_FIRST = struct.Struct(">QQ")


def pack(request: PublishRequest) -> bytes:
    """Return the body of an entry: format, size of meta, meta, data."""
    return _HEAD.pack(request.format, len(request.meta)) + request.meta + request.data


def unpack(channel: str, offset: int, epoch: str, milliseconds: int, body: bytes) -> Publication:
    """Return the publication of a kept body."""
    format, size = _HEAD.unpack_from(body)
    start = _HEAD.size + size
    return Publication(
        channel,
        offset,
        offset - 1,
        epoch,
        milliseconds / 1e3,
        body[start:],
        Format(format),
        body[_HEAD.size : start],
    )


def unpack_message(channel: str, payload: bytes) -> Iterator[Publication]:
    """Return the publications of one message of pub/sub (scripts/publish.lua writes it)."""
    (size,) = _EPOCH.unpack_from(payload)
    at = _EPOCH.size + size
    epoch = payload[_EPOCH.size : at].decode()
    milliseconds, offset = _FIRST.unpack_from(payload, at)
    at += _FIRST.size
    while at < len(payload):
        (size,) = _SIZE.unpack_from(payload, at)
        at += _SIZE.size
        yield unpack(channel, offset, epoch, milliseconds, payload[at : at + size])
        at += size
        offset += 1
