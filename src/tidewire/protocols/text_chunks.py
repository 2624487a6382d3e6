"""The publications of a text stream: chunks, each with its place in the text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidewire.messages import Format, Publication

__all__ = ("ABORTED", "DONE", "STOPPED", "Chunk", "chunk_of", "fold", "units")

#: How a stream ends: the producer finished, a reader stopped it, or the producer failed or died.
DONE, STOPPED, ABORTED = "done", "stopped", "aborted"
_BEGINNING = b'{"stream":"'


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A part of the text of a `stream`, which is an id.

    It begins at the place `at` of the text, counted as JavaScript counts a string (UTF-16 code units): at 0 it replaces
    the text so far, otherwise it continues the text there. The end of a producer that died has no `at`. Chunks after an
    `end` do not count.
    """

    stream: str
    text: str
    at: int | None = None
    end: str = ""

    def encode(self) -> bytes:
        """Return the data of its publication."""
        return msgspec.json.encode(self)


_decode = msgspec.json.Decoder(Chunk).decode


def units(text: str) -> int:
    """Return the length of a text as JavaScript counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def chunk_of(publication: Publication) -> Chunk | None:
    """Return the chunk in a publication, or None if it has none."""
    if publication.format is not Format.JSON or not publication.data.startswith(_BEGINNING):
        return None
    try:
        return _decode(publication.data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class _Text:
    """The state of one stream: the place where its text begins, its parts, and its newest publication."""

    __slots__ = ("at", "count", "end", "length", "parts", "previous", "slot")

    def __init__(self, previous: int) -> None:
        self.at: int | None = None
        self.parts: list[str] = []
        self.length = 0
        self.end = ""
        self.count = 0
        self.slot = 0
        self.previous = previous

    def add(self, chunk: Chunk, slot: int) -> None:
        """Add a chunk; one at the beginning of the text, or after a hole, replaces the text so far."""
        if self.at is None or (chunk.at is not None and chunk.at != self.at + self.length):
            self.at, self.parts, self.length = chunk.at, [], 0
        self.parts.append(chunk.text)
        self.length += units(chunk.text)
        self.end = chunk.end
        self.count += 1
        self.slot = slot


def fold(publications: Sequence[Publication]) -> tuple[Publication, ...]:
    """Return publications with the chunks of each stream as one; they may be in the order of offsets, or reversed."""
    if not any(one.data.startswith(_BEGINNING) for one in publications):
        return tuple(publications)
    is_reversed = publications[0].offset > publications[-1].offset
    shown: list[Publication | None] = list(reversed(publications) if is_reversed else publications)
    texts: dict[str, _Text] = {}
    for slot, one in enumerate(shown):
        chunk = None if one is None else chunk_of(one)
        if one is None or chunk is None:
            continue
        text = texts.get(chunk.stream)
        if text is None:
            text = texts[chunk.stream] = _Text(one.previous)
        elif text.end:  # a producer that was taken for dead
            shown[slot] = None
            continue
        else:
            shown[text.slot] = None
        text.add(chunk, slot)
    for stream, text in texts.items():
        last = shown[text.slot]
        if last is not None and text.count > 1:
            data = Chunk(stream, "".join(text.parts), text.at, text.end).encode()
            shown[text.slot] = msgspec.structs.replace(last, data=data, previous=text.previous)
    found = [one for one in shown if one is not None]
    return tuple(reversed(found) if is_reversed else found)
