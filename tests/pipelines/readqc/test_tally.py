"""The fast counts are those of a slow and plain count."""

from __future__ import annotations

from collections import Counter

import pytest

from pipelines.readqc.reads import Read, dice_reads, fastq, tallied
from tidewire.pipelines.readqc.summary import summarise
from tidewire.pipelines.readqc.tally import POSITIONS, Repeats


def columns(rows: list[str]) -> list[Counter[str]]:
    width = min(POSITIONS, max(map(len, rows), default=0))
    return [Counter(row[place] for row in rows if len(row) > place) for place in range(width)]


def counted(at: dict[int, list[int]], width: int) -> list[Counter[str]]:
    return [
        Counter({chr(letter): counts[place] for letter, counts in at.items() if counts[place]})
        for place in range(width)
    ]


@pytest.mark.parametrize(
    "reads",
    [
        dice_reads(500, range(75, 76)),
        dice_reads(500, range(151)),
        dice_reads(3, range(1, 2)),
        dice_reads(30, range(1, 2_000)),
        dice_reads(40, range(80), letters="A"),
        [("", "")] * 3,
    ],
    ids=["equal", "various", "short", "beyond the positions", "one letter", "empty"],
)
@pytest.mark.parametrize("piece", [900, 1 << 20])
def test_counts_are_those_of_a_slow_count(reads: list[Read], piece: int) -> None:
    tally = tallied(fastq(reads), piece=piece)
    bases, qualities = [read for read, _ in reads], [quality for _, quality in reads]
    lengths = list(map(len, bases))
    assert (tally.reads, tally.bases) == (len(reads), sum(lengths))
    assert (tally.shortest, tally.longest) == (min(lengths), max(lengths))
    for at, rows in ((tally.letters, bases), (tally.qualities, qualities)):
        expected = columns(rows)
        assert counted(at.at, len(expected)) == expected
        assert Counter({chr(a): n for a, n in at.beyond.items() if n}) == Counter("".join(r[POSITIONS:] for r in rows))
    filled = [(read, quality) for read, quality in reads if read]
    percents = [100 * (read.count("G") + read.count("C")) / len(read) for read, _ in filled]
    assert sum(value * number for value, number in tally.gc_percents.items()) == pytest.approx(
        sum(percents), abs=len(reads)
    )
    means = [sum(map(ord, quality)) / len(quality) for _, quality in filled]
    assert sum(value * number for value, number in tally.read_qualities.items()) == pytest.approx(
        sum(means), abs=len(reads)
    )


def test_small_letters_and_rna_are_the_same_bases() -> None:
    assert tallied(b"@a\nacgun\n+\nIIIII\n").letters.at.keys() == set(b"ACGTN")


def test_duplicates_are_exact_while_they_can_be() -> None:
    reads = dice_reads(100, range(60, 61), letters="ACGT")
    found = summarise(tallied(fastq(reads + reads[:50] + reads[:10])), "x").duplicates
    assert found.is_exact
    assert found.percent == pytest.approx(100 * 60 / 160, abs=0.001)
    assert dict(found.levels)["3–4"] == pytest.approx(100 * 30 / 160, abs=0.001)


def test_many_different_reads_are_estimated_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repeats, "MOST", 1_000)
    reads = dice_reads(12_000, range(60, 61), letters="ACGT")
    tally = tallied(fastq(reads + reads[:4_000]))
    found = summarise(tally, "x").duplicates
    assert not found.is_exact
    assert len(tally.repeats.seen) <= 1_000
    assert found.percent == pytest.approx(25, abs=4)


def test_lengths_of_long_reads_take_bounded_memory() -> None:
    tally = tallied(fastq([("A" * size, "I" * size) for size in range(12_340, 12_420, 7)]))
    assert set(tally.lengths) == {12_300, 12_400}
    assert (tally.shortest, tally.longest) == (12_340, 12_417)
