"""Reads the bytes of a file, plain or gzip, block by block; `fastq` finds the records in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tidewire.pipelines.readqc.broken import BrokenFastq

__all__ = ("Source",)

#: Bytes that are read at once, and the most that are unpacked at once.
BLOCK = 1 << 20

_GZIP = b"\x1f\x8b"
#: The first bytes of files that are mistaken for FASTQ, with what they are and what to do.
_OTHERS = (
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
    (b"PK\x03\x04", "a ZIP archive; unpack it and give the FASTQ file inside"),
    (b"CRAM", "a CRAM file; turn it into FASTQ with `samtools fastq`"),
    (b">", "a FASTA file: it has no qualities; give the FASTQ file that it was made from"),
)


class Source:
    """A file that is read in blocks; `taken` of its `size` bytes have been read from the disk so far."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = path.stat().st_size
        self.taken = 0

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
        for begin, what in _OTHERS:
            if first.startswith(begin):
                raise BrokenFastq(f"the file is {what}")
        if first.startswith(_GZIP):
            yield from self._unpacked(first)
            return
        while first:
            yield first
            first = self._read()

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
            if block:
                yield block
        if is_begun and not member.eof:
            raise BrokenFastq(f"the gzip data ends too early, after {self.size} bytes; the copy is not complete")
