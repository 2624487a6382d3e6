"""The words of nodes about a map that no store keeps: questions for its entries, and answers in parts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from tidewire.messages import EphemeralPublication

__all__ = ("KnownChange", "News", "decode_news", "parts_of")

#: Bytes that a change costs beside its data, about.
_OVERHEAD = 64


class KnownChange(NamedTuple):
    """A change that a node has taken: the data and meta of its publication, and the seconds since then."""

    data: bytes
    meta: bytes
    age: float


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message from one reader of a map to the others.

    `number` counts the changes that the reader has made. It asks one of them, or all ("*"), for the map, or answers
    with a part of it. `known` has the number of each reader's newest change that the answer includes.
    """

    by: str
    number: int = 0
    asks: str = ""
    answer: int = 0
    part: int = 0
    parts: int = 0
    changes: list[KnownChange] = []
    known: dict[str, int] = {}

    def encode(self) -> bytes:
        """Return the data of its publication."""
        return msgspec.msgpack.encode(self)


def decode_news(data: bytes) -> News | None:
    """Return the news in the data of a publication; None for a form that another version has written."""
    try:
        return msgspec.msgpack.decode(data, type=News)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def parts_of(changes: Sequence[EphemeralPublication], now: float, most: int) -> Iterator[list[KnownChange]]:
    """Return changes in parts of about `most` bytes, at least one; a larger one is alone."""
    part: list[KnownChange] = []
    size = 0
    for one in changes:
        cost = len(one.data) + len(one.meta) + _OVERHEAD
        if part and size + cost > most:
            yield part
            part, size = [], 0
        part.append(KnownChange(one.data, one.meta, max(0.0, now - one.time)))
        size += cost
    yield part
