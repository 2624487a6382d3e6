"""FASTQ text for tests."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from tidewire.pipelines.readqc.fastq import read_batches
from tidewire.pipelines.readqc.tally import Tally

__all__ = ("dice_reads", "fastq", "tallied")

Read = tuple[str, str]


def fastq(reads: Iterable[Read]) -> bytes:
    """Return the reads as a file."""
    return "".join(f"@r{number}\n{bases}\n+\n{quality}\n" for number, (bases, quality) in enumerate(reads)).encode()


def dice_reads(number: int, lengths: range, *, seed: int = 1, letters: str = "ACGTN") -> list[Read]:
    """Return random reads; the same for the same seed."""
    dice = random.Random(seed)
    sizes = [dice.choice(lengths) for _ in range(number)]
    return [
        ("".join(dice.choices(letters, k=size)), "".join(map(chr, dice.choices(range(33, 74), k=size))))
        for size in sizes
    ]


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
    for begin in range(0, len(text), size):
        yield text[begin : begin + size]


def tallied(text: bytes, *, piece: int = 1 << 20) -> Tally:
    """Return the counts of a file that is read in pieces."""
    tally = Tally()
    for batch in read_batches(_pieces(text, piece)):
        tally.add(batch)
    return tally
