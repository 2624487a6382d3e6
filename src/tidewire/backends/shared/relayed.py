"""How publications that nobody keeps travel between nodes: several in one payload, which names their node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from tidewire.messages import EphemeralPublication, Format
from tidewire.support.counters import count_limit

__all__ = ("pack_ephemeral", "unpack_ephemeral")

_Part = tuple[str, float, bytes, Format, bytes, str]
_Packed = tuple[str, int, list[_Part]]
#: The version of the form; a node leaves out publications of another version, and counts them.
_VERSION = 1
#: Bytes that a publication costs beside its data, about.
_OVERHEAD = 64

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack_ephemeral(node: str, publications: Sequence[EphemeralPublication], most: int) -> Iterator[bytes]:
    """Pack publications of a node, in their order, into payloads of about `most` bytes; one that is larger is alone."""
    part: list[_Part] = []
    size = 0
    for one in publications:
        cost = len(one.data) + len(one.meta) + len(one.channel) + _OVERHEAD
        if part and size + cost > most:
            yield _encode((node, _VERSION, part))
            part, size = [], 0
        part.append((one.channel, one.time, one.data, one.format, one.meta, one.sender))
        size += cost
    if part:
        yield _encode((node, _VERSION, part))


def unpack_ephemeral(payload: bytes, but: str) -> list[EphemeralPublication]:
    """Return the publications of a payload; none of the node `but`, nor of a payload that is not understood."""
    try:
        node, version, parts = _decode(payload)
        if node == but:
            return []
        if version == _VERSION:
            return [
                EphemeralPublication(channel, 0, 0, "", time, data, format, meta, sender)
                for channel, time, data, format, meta, sender in parts
            ]
    except (msgspec.MsgspecError, ValueError):
        pass
    count_limit("relay")
    return []
