"""The last step of metagenomics.toml: what the programs found, on one page; and their results side by side."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path

#: The files of the programs' folders that are worth a download.
KEPT = ("assemble/contigs.fasta", "annotate/{sample}.gff", "annotate/{sample}.faa", "annotate/{sample}.tsv")


def main() -> None:
    """Write summary.html and summary.tsv, and copy the files that are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("work", "results"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--sample", required=True)
    given = parser.parse_args()
    for name in KEPT:
        path = given.work / name.format(sample=given.sample)
        shutil.copy(path, given.results / path.name)
    species = list(read_species(given.results / "kraken2.txt"))
    facts = [
        ("reads aligned", aligned(given.results / "flagstat.txt")),
        *assembly(given.results / "contigs.fasta"),
        *genes(given.results / f"{given.sample}.tsv"),
    ]
    table = [*facts, *((f"reads of {name}", f"{percent:.2f}%") for name, percent in species)]
    (given.results / "summary.tsv").write_text("".join(f"{name}\t{value}\n" for name, value in table))
    (given.results / "summary.html").write_text(page(given.sample, facts, species))
    for name, value in table:
        print(f"{name}: {value}")


def read_species(report: Path) -> Iterator[tuple[str, float]]:
    """Return the species of a Kraken2 report with their percent of the reads, the commonest first."""
    rows = [line.split("\t") for line in report.read_text().splitlines()]
    found = [(row[5].strip(), float(row[0])) for row in rows if row[3] in ("S", "U")]
    yield from sorted(found, key=lambda each: -each[1])


def aligned(flagstat: Path) -> str:
    """Return how many reads were aligned."""
    found = re.search(r"primary mapped \(([\d.]+%)", flagstat.read_text())
    return found[1] if found else "not known"


def assembly(contigs: Path) -> list[tuple[str, str]]:
    """Return how many contigs there are, how long together, and the length that half of the bases reach (N50)."""
    records = contigs.read_text().split(">")[1:]
    lengths = sorted(len(record.partition("\n")[2].replace("\n", "")) for record in records)
    whole = sum(lengths)
    left, half = whole / 2, 0
    while left > 0:
        half = lengths.pop()
        left -= half
    return [("contigs", f"{len(records):,}"), ("bases", f"{whole:,}"), ("N50", f"{half:,}")]


def genes(table: Path) -> list[tuple[str, str]]:
    """Return how many genes Prokka found, and how many of them it knows."""
    products = [line.split("\t")[6] for line in table.read_text().splitlines()[1:] if "\tCDS\t" in line]
    known = sum(product != "hypothetical protein" for product in products)
    return [("genes", f"{len(products):,}"), ("known genes", f"{known:,}")]


def page(sample: str, facts: list[tuple[str, str]], species: list[tuple[str, float]]) -> str:
    """Return a page that needs nothing else."""
    rows = "".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in facts)
    kinds = "".join(
        f'<tr><th>{escape(name)}<td>{percent:.2f}%<td><meter max="100" value="{percent}">{percent}%</meter>'
        for name, percent in species
    )
    style = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}"
    style += "th{text-align:left;font-weight:400;padding:.2rem 2rem .2rem 0}td{padding-right:1rem}"
    style += ":root{color-scheme:light dark}meter{width:min(16rem,30vw)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(sample)} · metagenomics</title><style>{style}</style></head><body><main>"
        f"<h1>{escape(sample)}</h1><table>{rows}</table>"
        f"<h2>Who is in it</h2><table>{kinds}</table></main></body></html>\n"
    )


if __name__ == "__main__":
    main()
