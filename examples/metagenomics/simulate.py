"""A small sample to try the pipelines on: bacteria that never lived, and reads of them, all from one number.

Nothing is downloaded. The same seed gives the same bytes.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ("Gene", "Genome", "make_genomes", "write_reads", "write_reference")

READ = 150
INSERT = (360, 40)  #: mean and deviation of a fragment's length
ADAPTER = "AGATCGGAAGAGCACACGTCTGAACTCCAGTCACATCACGATCTCGTATGCCGTCTTCTGCTTGAAAAA"

_BASES = "ACGT"
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_STOPS = ("TAA", "TAG", "TGA")
_ACIDS = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
_CODE = {a + b + c: _ACIDS[16 * i + 4 * j + k]
         for i, a in enumerate(_BASES) for j, b in enumerate(_BASES) for k, c in enumerate(_BASES)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene: its name and the protein that it makes."""

    name: str
    protein: str


@dataclass(frozen=True, slots=True)
class Genome:
    """One circular genome, its place in the taxonomy (0: nobody knows it), and its part of the sample."""

    name: str
    taxon: int
    share: float
    sequence: str
    genes: tuple[Gene, ...]


def make_genomes(seed: int) -> list[Genome]:
    """Return the bacteria of the sample: three that the references know, and a stranger."""
    dice = random.Random(seed)
    plans = (
        ("Fictobacter tidensis", 1_000_001, 0.5, 42_000, 0.38),
        ("Fictobacter fluvialis", 1_000_002, 0.3, 34_000, 0.50),
        ("Imaginibacillus profundus", 1_000_003, 0.2, 28_000, 0.62),
        ("Ignotus alienus", 0, 0.2, 9_000, 0.45),
    )
    return [_make_genome(dice, *plan) for plan in plans]


def _make_genome(dice: random.Random, name: str, taxon: int, share: float, size: int, gc: float) -> Genome:
    tag = "".join(word[0] for word in name.split()).lower()
    parts: list[str] = []
    genes: list[Gene] = []
    length = 0
    while length < size:
        gene = _random_gene(dice, 3 * dice.randint(90, 420), gc)
        genes.append(Gene(f"{tag}{len(genes) + 1:03}", _translate(gene)))
        # A ribosome's binding site before each gene: by it a gene finder knows a beginning.
        whole = _random_bases(dice, dice.randint(40, 140), gc) + "AGGAGG" + _random_bases(dice, 7, gc) + gene
        parts.append(whole if dice.random() < 0.6 else _reversed(whole))
        length += len(whole)
    return Genome(name, taxon, share, "".join(parts), tuple(genes))


def _random_bases(dice: random.Random, size: int, gc: float) -> str:
    return "".join(dice.choices(_BASES, ((1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2), k=size))


def _random_gene(dice: random.Random, size: int, gc: float) -> str:
    codons = [codon for codon in _CODE if codon not in _STOPS]
    # The third base of a codon says least about the protein, so there a genome shows its GC content most.
    weights = [(gc if codon[2] in "GC" else 1 - gc) ** 2 * (gc if codon[0] in "GC" else 1 - gc) for codon in codons]
    return "ATG" + "".join(dice.choices(codons, weights, k=size // 3 - 2)) + dice.choice(_STOPS)


def _translate(gene: str) -> str:
    return "".join(_CODE[gene[place : place + 3]] for place in range(0, len(gene) - 3, 3))


def _reversed(sequence: str) -> str:
    return sequence.translate(_COMPLEMENT)[::-1]


def write_reads(genomes: list[Genome], folder: Path, sample: str, pairs: int, seed: int) -> list[Path]:
    """Write `pairs` read pairs as two FASTQ files; returns their paths."""
    dice = random.Random(f"{seed} reads")
    paths = [folder / f"{sample}_R{mate}.fastq.gz" for mate in (1, 2)]
    # No time and no name in the header, so that the same seed gives the same bytes.
    with (
        paths[0].open("wb") as one,
        paths[1].open("wb") as two,
        gzip.GzipFile("", "wb", 6, one, 0) as first,
        gzip.GzipFile("", "wb", 6, two, 0) as second,
    ):
        for number, (left, right) in enumerate(_fragments(dice, genomes, pairs)):
            first.write(_record(dice, f"{sample}:{number + 1}/1", left, wear=24))
            second.write(_record(dice, f"{sample}:{number + 1}/2", right, wear=29))
    return paths


def _fragments(dice: random.Random, genomes: list[Genome], pairs: int) -> Iterator[tuple[str, str]]:
    """Return both ends of random fragments, one read long; a short fragment runs into the adapter."""
    shares = [genome.share * len(genome.sequence) for genome in genomes]
    for genome in dice.choices(genomes, shares, k=pairs):
        size = max(60, int(dice.gauss(*INSERT)))
        begin = dice.randrange(len(genome.sequence))
        circle = genome.sequence + genome.sequence[:1_000]
        fragment = circle[begin : begin + size]
        ends = (fragment, _reversed(fragment))
        left, right = (f"{end}{ADAPTER}"[:READ].ljust(READ, "A") for end in ends)
        yield (left, right) if dice.random() < 0.5 else (right, left)


def _record(dice: random.Random, name: str, bases: str, wear: int) -> bytes:
    level = dice.gauss(38, 1.5)
    letters, qualities = [], []
    for place, base in enumerate(bases):
        quality = min(41, max(2, round(level - wear * (place / READ) ** 3 + dice.gauss(0, 1.5))))
        is_wrong = dice.random() < 10 ** (-quality / 10)
        letters.append(dice.choice("ACGTN") if is_wrong else base)
        qualities.append(chr(33 + quality))
    return f"@{name}\n{''.join(letters)}\n+\n{''.join(qualities)}\n".encode()


def write_reference(genomes: list[Genome], folder: Path) -> None:
    """Write what the programs compare with: known genomes, a taxonomy of them, and the proteins that Prokka knows."""
    genomes = [genome for genome in genomes if genome.taxon]
    _fasta(folder / "reference.fa", {genome.name.replace(" ", "_"): genome.sequence for genome in genomes})
    _fasta(
        folder / "library.fa",
        {f"kraken:taxid|{genome.taxon}|{genome.name.split()[1]}": genome.sequence for genome in genomes},
    )
    _fasta(
        folder / "sprot",
        {
            f"{gene.name} ~~~{gene.name}~~~simulated protein {gene.name}~~~": gene.protein
            for genome in genomes
            for gene in genome.genes
        },
    )
    genera = {name: 2_000_000 + number for number, name in enumerate(sorted({g.name.split()[0] for g in genomes}))}
    nodes = [(1, 1, "no rank", "root"), (2, 1, "superkingdom", "Bacteria")]
    nodes += [(taxon, 2, "genus", name) for name, taxon in genera.items()]
    nodes += [(genome.taxon, genera[genome.name.split()[0]], "species", genome.name) for genome in genomes]
    # The format of NCBI's dump: nodes has 13 fields, names has 4.
    rest = "\t|\t".join(("", "0", "1", "11", "1", "0", "1", "0", "0", ""))
    lines = [f"{taxon}\t|\t{parent}\t|\t{rank}\t|\t{rest}\t|\n" for taxon, parent, rank, _ in nodes]
    (folder / "nodes.dmp").write_text("".join(lines))
    (folder / "names.dmp").write_text(
        "".join(f"{taxon}\t|\t{name}\t|\t\t|\tscientific name\t|\n" for taxon, *_, name in nodes)
    )


def _fasta(path: Path, records: dict[str, str]) -> None:
    with path.open("w") as out:
        for name, sequence in records.items():
            out.write(f">{name}\n")
            out.writelines(f"{sequence[place : place + 80]}\n" for place in range(0, len(sequence), 80))
