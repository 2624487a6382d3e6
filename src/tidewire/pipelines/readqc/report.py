"""Writes a summary as a page, as JSON and as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from string import Template

from tidewire.pipelines.readqc.plots import Plot
from tidewire.pipelines.readqc.summary import Summary

__all__ = ("as_html", "as_json", "as_tsv")

_PAGE = Path(__file__).with_name("report.html")
_MOST_BARS = 60


def as_json(summary: Summary) -> str:
    """Return all values as JSON; positions begin at 1, shares are in percent."""
    return json.dumps(dataclasses.asdict(summary), indent=1, ensure_ascii=False) + "\n"


def as_tsv(summary: Summary) -> str:
    """Return all values as lines of table, key, measure and value."""
    return "".join(f"{table}\t{key}\t{measure}\t{value}\n" for table, key, measure, value in _cells(summary))


def as_html(summary: Summary) -> str:
    """Return one page without scripts or other files."""
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in summary.remarks)
    found = f'<div class="remarks bad"><strong>What stands out</strong><ul>{remarks}</ul></div>'
    calm = '<div class="remarks"><p>Nothing stands out.</p></div>'
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        name=escape(summary.name),
        reads=f"{summary.reads:,}",
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in _facts(summary)),
        remarks=found if remarks else calm,
        figures="\n".join(_figures(summary)),
    )


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    lengths, letters, qualities = summary.lengths, summary.letters, summary.qualities
    equal = lengths.shortest == lengths.longest
    yield "Reads", f"{summary.reads:,}"
    yield "Bases", f"{summary.bases:,}"
    yield "Length", f"{lengths.longest:,}" if equal else f"{lengths.shortest:,}–{lengths.longest:,}"
    yield "Mean quality", f"{qualities.mean:.1f}"
    yield "Bases of Q30", f"{qualities.q30:.1f}%"
    yield "GC", f"{letters.gc:.1f}%"
    yield "Not known (N)", f"{letters.other:.2f}%"
    yield "Duplicates", f"{'' if summary.duplicates.is_exact else '≈ '}{summary.duplicates.percent:.1f}%"


def _cells(summary: Summary) -> Iterator[tuple[str, object, str, object]]:
    yield "table", "key", "measure", "value"
    lengths, letters, qualities = summary.lengths, summary.letters, summary.qualities
    yield "summary", "all", "reads", summary.reads
    yield "summary", "all", "bases", summary.bases
    for name in ("shortest", "median", "mean", "longest"):
        yield "summary", "all", f"length_{name}", getattr(lengths, name)
    for name in ("encoding", "mean", "q20", "q30"):
        yield "summary", "all", f"quality_{name}", getattr(qualities, name)
    yield "summary", "all", "gc_percent", letters.gc
    yield "summary", "all", "n_percent", letters.other
    yield "summary", "all", "duplicates_percent", summary.duplicates.percent
    for spread in qualities.at:
        for name in ("mean", "p10", "p25", "median", "p75", "p90"):
            yield "quality_at", spread.position, name, getattr(spread, name)
    for position, *percents in letters.at:
        for name, percent in zip("ACGTN", percents, strict=True):
            yield "bases_at", position, name, percent
    counts = {"quality": qualities.of_reads, "gc_percent": letters.gc_of_reads, "length": lengths.counts}
    for name, values in counts.items():
        yield from ((f"reads_by_{name}", value, "reads", number) for value, number in values)
    yield from (("duplicates", label, "percent", percent) for label, percent in summary.duplicates.levels)
    yield from (("adapters", adapter.name, "reads", adapter.reads) for adapter in summary.adapters)


def _figures(summary: Summary) -> Iterator[str]:
    if not summary.bases:
        return
    beyond = (
        f" Positions after {summary.positions} are not shown." if summary.lengths.longest > summary.positions else ""
    )
    yield _figure(
        "Quality by position",
        f"The line is the median; half of the bases are in the dark band, 80% in the light one.{beyond}",
        _quality_by_position(summary),
    )
    yield _figure("Bases by position", _letter_keys(), _bases_by_position(summary))
    yield _figure(
        "Quality of the reads",
        "How many reads have which mean quality.",
        _histogram("Quality of the reads", summary.qualities.of_reads, "mean quality"),
    )
    yield _figure(
        "GC content of the reads",
        "One hill is one kind of genome; several are several, or a contamination.",
        _histogram("GC content of the reads", summary.letters.gc_of_reads, "percent G and C", ends=(0, 100)),
    )
    yield _figure(
        "Lengths of the reads",
        "How many reads have which length.",
        _histogram("Lengths of the reads", summary.lengths.counts, "bases"),
    )
    kind = "Counted from all reads" if summary.duplicates.is_exact else "Estimated from a part of the reads"
    yield _figure("Duplicates", f"How often a read's beginning occurs. {kind}.", _duplicates(summary))


def _figure(title: str, note: str, plot: Plot) -> str:
    return f'<figure><figcaption><h2>{escape(title)}</h2><p class="note">{note}</p></figcaption>{plot}</figure>'


def _letter_keys() -> str:
    names = (("a", "A"), ("c", "C"), ("g", "G"), ("t", "T"), ("n", "not known (N)"))
    return "".join(f'<span class="key {kind}"></span>{name}' for kind, name in names)


def _quality_by_position(summary: Summary) -> Plot:
    spreads = summary.qualities.at
    top = max(42, *(spread.p90 for spread in spreads)) + 1
    said = f"median {spreads[0].median} at the first position, {spreads[-1].median} at position {spreads[-1].position}"
    plot = Plot("Quality by position", said, (0.5, len(spreads) + 0.5), (0, top))

    # A step for each position, so that one position alone has an area, too.
    def steps(name: str) -> list[tuple[float, float]]:
        return [(spread.position + side, getattr(spread, name)) for spread in spreads for side in (-0.5, 0.5)]

    plot.band("wide", steps("p10"), steps("p90"))
    plot.band("near", steps("p25"), steps("p75"))
    plot.grid("position in the read", "quality")
    plot.rule(20, "Q20")
    plot.line("median", steps("median"))
    return plot


def _bases_by_position(summary: Summary) -> Plot:
    rows = summary.letters.at
    top = min(100.0, max(40.0, *(max(row[1:]) for row in rows)) * 1.05)
    plot = Plot("Bases by position", f"GC {summary.letters.gc:.1f} percent", (0.5, len(rows) + 0.5), (0, top))
    plot.grid("position in the read", "percent")
    for column, kind in enumerate("acgtn", start=1):
        plot.line(kind, [(row[0] + side, row[column]) for row in rows for side in (-0.5, 0.5)])
    return plot


def _histogram(title: str, counts: Iterable[tuple[int, int]], label: str, ends: tuple[int, int] | None = None) -> Plot:
    counts = tuple(counts)
    first, last = ends or (min(counts)[0], max(counts)[0])
    width = max(1, -(-(last - first + 1) // (_MOST_BARS if ends is None else 101)))
    binned: dict[float, int] = {}
    for value, number in counts:
        middle = first + (value - first) // width * width + (width - 1) / 2
        binned[middle] = binned.get(middle, 0) + number
    margin = max(width, 3) * 0.7
    common = max(binned, key=lambda value: binned[value])
    said = f"most often about {common:.0f}"
    plot = Plot(title, said, (first - margin, last + margin), (0, max(binned.values()) * 1.05))
    plot.grid(label, "reads")
    plot.bars("bar", binned.items(), width)
    return plot


def _duplicates(summary: Summary) -> Plot:
    levels = summary.duplicates.levels
    said = f"{summary.duplicates.percent:.1f} percent of the reads are duplicates"
    plot = Plot("Duplicates", said, (-0.6, len(levels) - 0.4), (0, 100))
    plot.grid("times that the beginning occurs", "percent of the reads", names=[label for label, _ in levels])
    plot.bars("bar", enumerate(percent for _, percent in levels), 0.8)
    return plot
