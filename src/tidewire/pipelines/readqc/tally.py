"""Counts over all reads of a file, batch by batch, in bounded memory; `summary` evaluates the counts.

Pure Python counts fast enough only where one call looks at many bytes: the bases at one position of a whole batch are
one strided slice, and `bytes.count` goes over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from zlib import crc32

from tidewire.pipelines.readqc.fastq import Batch

__all__ = ("ADAPTERS", "DUPLICATE_BASES", "POSITIONS", "Repeats", "Tally")

#: Bases of the shortest read that may count as a duplicate.
LEAST_BASES = 20
#: Bases at each end of a long read in which adapters are looked for, and the length from which on a read is long:
#: within 10,000 bases, the beginning of an adapter occurs by chance, or as poly-A of a genome.
ADAPTER_ENDS, ADAPTER_WHOLE = 100, 1_000
#: Positions of a read that are counted one by one.
POSITIONS = 600
#: The first bases of a read that are compared to find duplicates.
DUPLICATE_BASES = 50
#: The beginnings of sequencing adapters, and tails that are artefacts. Source: Illumina's "Adapter Sequences" (document
#: 1000000002694).
ADAPTERS = {
    "Illumina TruSeq": b"AGATCGGAAGAG",
    "Nextera / transposase": b"CTGTCTCTTATA",
    "Illumina small RNA 3'": b"TGGAATTCTCGG",
    "Illumina small RNA 5'": b"GATCGTCGGACT",
    "poly-A": b"A" * 20,
    "poly-G (no signal)": b"G" * 20,
}

_PAD = b"\0"
_ALL_BUT_GC = bytes(sorted(set(range(256)) - set(b"GC")))
#: Bases that are counted as they are, and how others are changed first: to capitals, and RNA's U to T.
_PLAIN = b"ACGTN"
_CAPITALS = bytes.maketrans(b"acgtunryswkmbdhvU", b"ACGTTNRYSWKMBDHVT")
#: Longer lengths are rounded to three digits, so that a million different ones take no more memory than a thousand.
_EXACT_LENGTHS = 1_000


class Columns:
    """Counts each character at each position."""

    def __init__(self) -> None:
        self.at: dict[int, list[int]] = {}
        self.beyond: Counter[int] = Counter()
        self._known = b""

    def add(self, rows: list[bytes]) -> None:
        """Count the characters of these rows."""
        self._learn(b"".join(rows))
        tails = b"".join([row[POSITIONS:] for row in rows if len(row) > POSITIONS])
        if tails:
            self.beyond.update({letter: tails.count(letter) for letter in self._known})
            rows = [row[:POSITIONS] for row in rows]
        for group in _of_similar_length(rows):
            self._count(group, len(group[0]))

    def _learn(self, text: bytes) -> None:
        if new := set(text.translate(None, self._known)):
            self._known += bytes(sorted(new))
            for letter in new:
                self.at[letter] = [0] * POSITIONS

    def _count(self, rows: list[bytes], width: int) -> None:
        padded = len(rows[-1]) < width
        text = b"".join([row.ljust(width, _PAD) for row in rows] if padded else rows)
        # The most frequent character is computed from the others, because counting it would cost the most.
        *rare, common = sorted(self._known, key=lambda letter: sum(self.at[letter][:8]))
        counted = [(letter, self.at[letter]) for letter in rare]
        for place in range(width):
            column = text[place::width]
            left = len(rows) - (column.count(_PAD) if padded else 0)
            for letter, counts in counted:
                if number := column.count(letter):
                    counts[place] += number
                    left -= number
            self.at[common][place] += left


class Repeats:
    """Estimates how many reads begin alike, from the reads whose beginning hashes into a part of the hash's range.

    The part is halved whenever there are more than `MOST` different beginnings: small files are counted exactly.
    """

    MOST = 100_000

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self.mask = 0

    def add(self, reads: list[bytes]) -> None:
        """Count these reads."""
        # a short read, and one without a known base, is like others by chance
        keys = [read[:DUPLICATE_BASES] for read in reads if len(read) >= LEAST_BASES and read.strip(b"N")]
        if self.mask:
            keys = [key for key in keys if not crc32(key) & self.mask]
        self.seen.update(keys)
        while len(self.seen) > self.MOST:
            self.mask = self.mask * 2 + 1
            kept = {key: number for key, number in self.seen.items() if not crc32(key) & self.mask}
            self.seen = Counter(kept)


class Tally:
    """All counts of one file."""

    def __init__(self) -> None:
        self.reads = 0
        self.bases = 0
        self.shortest = 0
        self.longest = 0
        self.lengths: Counter[int] = Counter()
        self.gc_percents: Counter[int] = Counter()
        #: Reads by the rounded mean of their quality characters.
        self.read_qualities: Counter[int] = Counter()
        self.letters = Columns()
        self.qualities = Columns()
        self.adapters: Counter[str] = Counter()
        self.repeats = Repeats()

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        reads = batch.bases
        if b"".join(reads).translate(None, _PLAIN):
            reads = [read.translate(_CAPITALS) for read in reads]
        self._add_lengths(reads)
        with_gc = [(len(read.translate(None, _ALL_BUT_GC)), len(read)) for read in reads if read]
        self.gc_percents.update([(200 * gc + size) // (2 * size) for gc, size in with_gc])
        self.read_qualities.update([(2 * sum(row) + len(row)) // (2 * len(row)) for row in batch.qualities if row])
        self.letters.add(reads)
        self.qualities.add(batch.qualities)
        self._add_adapters(reads)
        self.repeats.add(reads)

    def _add_lengths(self, reads: list[bytes]) -> None:
        lengths = list(map(len, reads))
        self.shortest = min(chain(lengths, (self.shortest,) if self.reads else ()))
        self.longest = max(self.longest, max(lengths))
        self.reads += len(reads)
        self.bases += sum(lengths)
        self.lengths.update(lengths if max(lengths) < _EXACT_LENGTHS else map(_rounded, lengths))

    def _add_adapters(self, reads: list[bytes]) -> None:
        reads = [
            read if len(read) <= ADAPTER_WHOLE else read[:ADAPTER_ENDS] + b"\n" + read[-ADAPTER_ENDS:] for read in reads
        ]
        text = b"\n".join(reads)
        for name, begin in ADAPTERS.items():
            if begin in text:
                self.adapters[name] += sum([begin in read for read in reads])


def _rounded(length: int) -> int:
    step: int = 10 ** max(0, len(str(length)) - 3)
    return length // step * step


def _of_similar_length(rows: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the rows in groups of similar length, the longest first: padding them then costs little."""
    lengths = list(map(len, rows))
    if min(lengths) == max(lengths):
        if rows[0]:
            yield rows
        return
    rows = sorted(filter(None, rows), key=len, reverse=True)
    begin = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or len(rows[end]) * 5 + 40 < len(rows[begin]) * 4:
            yield rows[begin:end]
            begin = end
