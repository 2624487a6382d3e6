"""Evaluates the counts of a file: one frozen value, from which every form of the report is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tidewire.pipelines.readqc.tally import ADAPTERS, POSITIONS, Columns, Repeats, Tally

__all__ = ("Adapter", "Duplicates", "Lengths", "Letters", "Qualities", "Spread", "Summary", "summarise")

#: Qualities that begin at 64 (Illumina before 2011) have characters from the first on, some up to the second (Q10), and
#: some between the last two (Q33 to Q41), and reads of at most 160 bases. Those of newer machines begin at 33, and may
#: all be over Q40.
_LEAST_OF_64, _LOW_OF_64, _HIGH_OF_64, _MOST_OF_64 = 59, 74, 97, 105
_LONGEST_OF_64 = 400
#: Percentages of reads with an adapter, and of duplicates, that are worth a remark; and the number of standard
#: deviations by which a share must be over its threshold.
_LEAST_READS, _SURE = 5, 3.0
_LEVELS = ((1, 1), (2, 2), (3, 4), (5, 9), (10, 49), (50, 99), (100, None))


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of the reads; `counts` has (length, reads), with three digits from 1,000 bases on."""

    shortest: int
    median: int
    mean: float
    longest: int
    counts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Letters:
    """The bases of the reads in percent; `at` has (position, A, C, G, T, other), positions from 1.

    `uneven` are positions after 12 where A and T, or C and G, differ by more than 20%, more than by chance.
    """

    gc: float
    other: float
    at: tuple[tuple[int, float, float, float, float, float], ...]
    gc_of_reads: tuple[tuple[int, int], ...]
    uneven: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of quality at one position, from 1."""

    position: int
    mean: float
    p10: int
    p25: int
    median: int
    p75: int
    p90: int


@dataclass(frozen=True, slots=True)
class Qualities:
    """The qualities of the reads; `of_reads` has (mean quality, reads), `q20` and `q30` are percent of all bases."""

    encoding: int
    mean: float
    q20: float
    q30: float
    at: tuple[Spread, ...]
    of_reads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many reads begin like an earlier one; `levels` has (how often a beginning occurs, percent of the reads)."""

    percent: float
    is_exact: bool
    levels: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Adapter:
    """The reads that contain the beginning of a known adapter."""

    name: str
    sequence: str
    reads: int
    percent: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All values of a report."""

    name: str
    reads: int
    bases: int
    positions: int
    lengths: Lengths
    letters: Letters
    qualities: Qualities
    duplicates: Duplicates
    adapters: tuple[Adapter, ...]
    remarks: tuple[str, ...]


def summarise(tally: Tally, name: str) -> Summary:
    """Return the summary of a file's counts; `name` is the title of the report."""
    lengths = _lengths(tally)
    letters = _letters(tally)
    qualities = _qualities(tally)
    duplicates = _duplicates(tally.repeats)
    adapters = tuple(
        Adapter(adapter, begin.decode(), found, _percent(found, tally.reads))
        for adapter, begin in ADAPTERS.items()
        if (found := tally.adapters[adapter])
    )
    return Summary(
        name=name,
        reads=tally.reads,
        bases=tally.bases,
        positions=min(tally.longest, POSITIONS),
        lengths=lengths,
        letters=letters,
        qualities=qualities,
        duplicates=duplicates,
        adapters=adapters,
        remarks=tuple(_remarks(tally.reads, letters, qualities, duplicates, adapters)),
    )


def _lengths(tally: Tally) -> Lengths:
    counts = tuple(sorted(tally.lengths.items()))
    mean = tally.bases / tally.reads if tally.reads else 0.0
    return Lengths(tally.shortest, _quantile(counts, 0.5), round(mean, 1), tally.longest, counts)


def _letters(tally: Tally) -> Letters:
    totals = _totals(tally.letters)
    named = sum(totals[letter] for letter in b"ACGT")
    at: list[tuple[int, float, float, float, float, float]] = []
    uneven = []
    for place in range(min(tally.longest, POSITIONS)):
        here = {letter: counts[place] for letter, counts in tally.letters.at.items()}
        whole = sum(here.values())
        if place >= 12 and any(_differ(here.get(x, 0), here.get(y, 0), whole) for x, y in (b"AT", b"CG")):
            uneven.append(place + 1)
        a, c, g, t = (_percent(here.get(letter, 0), whole) for letter in b"ACGT")
        rest = sum(number for letter, number in here.items() if letter not in b"ACGT")
        at.append((place + 1, a, c, g, t, _percent(rest, whole)))
    return Letters(
        gc=_percent(totals[b"G"[0]] + totals[b"C"[0]], named),
        other=_percent(tally.bases - named, tally.bases),
        at=tuple(at),
        gc_of_reads=tuple(sorted(tally.gc_percents.items())),
        uneven=tuple(uneven),
    )


def _differ(one: int, other: int, whole: int) -> bool:
    """Return whether the shares of two bases differ by more than 20%, and by more than chance explains."""
    return abs(one - other) > 0.2 * whole + _SURE * math.sqrt(one + other)


def _begins_at_64(totals: Counter[int]) -> bool:
    """Return whether the quality characters are those of the old encoding."""
    used = [letter for letter, number in totals.items() if number]
    if not used or min(used) < _LEAST_OF_64 or max(used) > _MOST_OF_64:
        return False
    return min(used) <= _LOW_OF_64 and max(used) >= _HIGH_OF_64


def _qualities(tally: Tally) -> Qualities:
    totals = _totals(tally.qualities)
    zero = 64 if tally.longest <= _LONGEST_OF_64 and _begins_at_64(totals) else 33
    at = []
    for place in range(min(tally.longest, POSITIONS)):
        here = sorted((letter - zero, counts[place]) for letter, counts in tally.qualities.at.items() if counts[place])
        whole = sum(number for _, number in here)
        mean = sum(quality * number for quality, number in here) / whole
        at.append(Spread(place + 1, round(mean, 2), *(_quantile(here, part) for part in (0.1, 0.25, 0.5, 0.75, 0.9))))
    counted = [(letter - zero, number) for letter, number in totals.items()]
    return Qualities(
        encoding=zero,
        mean=round(sum(quality * number for quality, number in counted) / tally.bases, 2) if tally.bases else 0.0,
        q20=_percent(sum(number for quality, number in counted if quality >= 20), tally.bases),
        q30=_percent(sum(number for quality, number in counted if quality >= 30), tally.bases),
        at=tuple(at),
        of_reads=tuple(sorted((letter - zero, number) for letter, number in tally.read_qualities.items())),
    )


def _duplicates(repeats: Repeats) -> Duplicates:
    whole = sum(repeats.seen.values())
    often = Counter(repeats.seen.values())
    levels = []
    for least, most in _LEVELS:
        reads = sum(times * number for times, number in often.items() if least <= times <= (most or times))
        label = f"{least}+" if most is None else f"{least}" if least == most else f"{least}–{most}"
        levels.append((label, _percent(reads, whole)))
    return Duplicates(_percent(whole - len(repeats.seen), whole), repeats.mask == 0, tuple(levels))


def _remarks(
    reads: int, letters: Letters, qualities: Qualities, duplicates: Duplicates, adapters: tuple[Adapter, ...]
) -> Iterable[str]:
    """Yield remarks that a user should know before working with the reads."""
    low = [spread.position for spread in qualities.at if spread.median < 20]
    if low:
        yield f"The median quality is under 20 at {len(low)} positions, first at {low[0]}: trim the reads."
    if qualities.encoding == 64:
        yield "The qualities are of the old encoding that begins at 64: tell the programs that come after."
    for adapter in adapters:
        if adapter.reads >= _LEAST_READS and _is_surely_over(adapter.reads, adapter.percent, 1.0):
            yield f"{adapter.percent:.1f}% of the reads hold {adapter.name} ({adapter.sequence}): trim it."
    if duplicates.percent >= 30 and duplicates.percent * reads >= 100 * _LEAST_READS:
        yield f"{duplicates.percent:.0f}% of the reads are duplicates: few molecules, or many cycles of amplification."
    if letters.other >= 1:
        yield f"{letters.other:.1f}% of the bases are not known (N)."
    if letters.uneven:
        positions = len(letters.uneven)
        yield f"A and T, or C and G, differ by more than 20% at {positions} positions after 12: is there an adapter?"


def _is_surely_over(number: int, percent: float, threshold: float) -> bool:
    """Return whether a share of the reads is over a threshold by more than chance explains."""
    return percent >= threshold and percent * (1 - 1 / math.sqrt(number)) >= threshold


def _totals(columns: Columns) -> Counter[int]:
    totals = Counter({letter: sum(counts) for letter, counts in columns.at.items()})
    totals.update(columns.beyond)
    return totals


def _quantile(counts: Iterable[tuple[int, int]], part: float) -> int:
    """Return the smallest value that is not below `part` of all; `counts` has (value, number) in order."""
    counts = list(counts)
    left = part * sum(number for _, number in counts)
    for value, number in counts:
        left -= number
        if left <= 0:
            return value
    return counts[-1][0] if counts else 0


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 3) if whole else 0.0
