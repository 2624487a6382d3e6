"""Messages between nodes about a map that no store keeps: questions for its entries, and answers in parts. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from tidewire.messages import EphemeralPublication

__all__ = ("KnownChange", "News", "Readers", "decode_news", "maker_of", "parts_of")

#: Bytes that a change costs beside its data, about.
_OVERHEAD = 64
#: Readers that are remembered, of which the oldest is forgotten; how often one is asked.
_READERS, _ASKED = 1_000, 10
_MADE = re.compile(r"([0-9a-f]{12})([0-9a-f]{1,13})")

_Value = TypeVar("_Value")
_Name = Annotated[str, Meta(max_length=64)]
_Number = Annotated[int, Meta(ge=0, lt=1 << 53)]
_Part = Annotated[int, Meta(ge=0, le=1 << 16)]


class KnownChange(NamedTuple):
    """A change that a node has taken: the data and meta of its publication, and the seconds since then."""

    data: bytes
    meta: bytes
    age: Annotated[float, Meta(ge=0, le=1e10)]


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message from one reader of a map to the others.

    `number` counts the changes that the reader has made. It asks one of them, or all ("*"), for the map, or answers
    with a part of it. `known`, in the first part, has the number of each reader's newest change that the answer
    includes.
    """

    by: _Name
    number: _Number = 0
    asks: _Name = ""
    answer: _Number = 0
    part: _Part = 0
    parts: _Part = 0
    changes: list[KnownChange] = []
    known: dict[_Name, _Number] = {}

    def encode(self) -> bytes:
        """Return the data of its publication."""
        return msgspec.msgpack.encode(self)


_decode = msgspec.msgpack.Decoder(News).decode


def decode_news(data: bytes) -> News | None:
    """Return the news in the data of a publication; None for a form that another version has written."""
    try:
        news = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if news.parts and news.part >= news.parts else news


def maker_of(by: str) -> tuple[str, int] | None:
    """Return the reader that has made a change, and its number; None for a form that another version has written."""
    found = _MADE.fullmatch(by)
    return (found[1], int(found[2], 16)) if found else None


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


class Readers:
    """The other readers of a map, as one of them knows them."""

    def __init__(self) -> None:
        #: The number of the newest change of each that has come, or is asked for.
        self.numbers: OrderedDict[str, int] = OrderedDict()
        #: Those that are asked again, and how often; the parts and numbers of each answer that is not complete.
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._parts: OrderedDict[str, tuple[int, set[int], dict[str, int]]] = OrderedDict()

    def note(self, reader: str, number: int, *, has_come: bool = True) -> bool:
        """Note the number of a reader's newest change; return whether one up to it has not come."""
        known = self.numbers.get(reader, 0)
        _keep(self.numbers, reader, max(known, number))
        return number > (known + 1 if has_come else known)

    def ask(self, reader: str) -> None:
        """Ask a reader again until it has answered."""
        _keep(self._asked, reader, self._asked.get(reader, _ASKED))

    def to_ask(self) -> list[str]:
        """Return the readers that are to be asked now; one that never answers has died."""
        self._asked = OrderedDict((reader, times - 1) for reader, times in self._asked.items() if times > 1)
        return list(self._asked)

    def has_answered(self, news: News) -> bool:
        """Take a part of an answer; return whether all of its parts have come."""
        answer, parts, known = self._parts.pop(news.by, (news.answer, set[int](), dict[str, int]()))
        if answer != news.answer:
            parts, known = set(), {}
        parts.add(news.part)
        known = news.known or known
        if len(parts) < news.parts:
            _keep(self._parts, news.by, (news.answer, parts, known))
            return False
        self._asked.pop(news.by, None)
        for reader, number in known.items():
            self.note(reader, number)
        return True


def _keep(found: OrderedDict[str, _Value], name: str, value: _Value) -> None:
    """Set a value, and forget the oldest one where there are too many."""
    found[name] = value
    found.move_to_end(name)
    if len(found) > _READERS:
        found.popitem(last=False)
