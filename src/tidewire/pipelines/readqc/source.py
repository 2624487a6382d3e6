"""Reads the bytes of a file, plain or gzip, block by block; `fastq` finds the records in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tidewire.pipelines.file_kinds import kind_of
from tidewire.pipelines.readqc.broken import BrokenFastq

__all__ = ("Source",)

#: Bytes that are read at once, and the most that are unpacked at once.
BLOCK = 1 << 20

#: From this number of unpacked bytes on, a file may be at most `EXPANSION` times as large as its gzip data: reads
#: compress some ten times, so a larger one is no file of reads, and perhaps made to keep the machine busy.
EXPANSION_FROM, EXPANSION = 16 << 20, 200

_GZIP = b"\x1f\x8b"


def _check_kind(first: bytes, begin: str) -> None:
    if kind := kind_of(first):
        raise BrokenFastq(f"{begin} {kind}")


def _joined(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield small blocks as large ones: with each, the record that it belongs to is looked at as a whole."""
    parts: list[bytes] = []
    size = 0
    try:
        for block in blocks:
            parts.append(block)
            size += len(block)
            if size >= BLOCK:
                yield b"".join(parts)
                parts, size = [], 0
    except BrokenFastq:
        if parts:
            yield b"".join(parts)
        raise
    if parts:
        yield b"".join(parts)


class Source:
    """A file that is read in blocks; `taken` of its `size` bytes have been read from the disk so far."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = path.stat().st_size
        self.taken = 0
        #: Bytes that were read and are not unpacked yet.
        self._unused = 0

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """Yield the unpacked content in blocks. Raises BrokenFastq for a file that does not begin as FASTQ."""
        first = self._read()
        if not first:
            raise BrokenFastq("the file is empty; give a FASTQ file")
        if first.startswith(_GZIP):
            yield from self._checked(_joined(self._unpacked(first)))
            return
        _check_kind(first, "the file is")
        while first:
            yield first
            first = self._read()

    def _checked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the unpacked blocks of a file that may be one of reads."""
        size = 0
        for block in blocks:
            if not size:
                if block.startswith(_GZIP):
                    raise BrokenFastq("the file is compressed with gzip twice; unpack it once with gunzip")
                _check_kind(block, "the gzip file contains what is")
            size += len(block)
            if size > EXPANSION_FROM and size > (self.taken - self._unused) * EXPANSION:
                raise BrokenFastq(
                    f"the gzip data unpacks to more than {EXPANSION} times its size; no reads compress so well: "
                    "this is no FASTQ file"
                )
            yield block

    def _read(self) -> bytes:
        block = self._file.read(BLOCK)
        self.taken += len(block)
        return block

    def _unpacked(self, packed: bytes) -> Iterator[bytes]:
        # A gzip file may have several members (bgzip writes thousands), and zero bytes after the last one.
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        is_begun = False
        while packed or (packed := self._read()):
            if member.eof:
                packed = packed.lstrip(b"\0")
                if not packed:
                    continue
                member, is_begun = zlib.decompressobj(zlib.MAX_WBITS | 16), False
            try:
                block = member.decompress(packed, BLOCK)
            except zlib.error as error:
                where = f"near byte {self.taken - len(packed)} of {self.size}"
                raise BrokenFastq(f"the gzip data is damaged {where} ({error}); copy the file again") from None
            is_begun = True
            packed = member.unused_data if member.eof else member.unconsumed_tail
            self._unused = len(packed)
            if block:
                yield block
        if is_begun and not member.eof:
            raise BrokenFastq(f"the gzip data ends too early, after {self.size} bytes; the copy is not complete")
