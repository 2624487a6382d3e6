"""The steps of the pipeline `demo`: real work on simulated reads, each step in a process of its own."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tidewire.pipelines.errors import StepFailed
from tidewire.pipelines.job import Job

__all__ = ("assemble", "count_kmers", "quality", "simulate")

_GENOME, _READS, _LENGTH, _KMER = 5_000, 4_000, 100, 21
#: A k-mer that is seen less often counts as a sequencing error.
_TRUSTED = 8
_EACH = 200


def simulate(job: Job) -> None:
    """Write reads of a random genome, with the sample's name as seed; errors grow towards the ends of reads."""
    chance = random.Random(job.sample)
    genome = "".join(chance.choices("ACGT", k=_GENOME))
    with _reads_file(job).open("w") as file:
        for number in range(_READS):
            start = chance.randrange(_GENOME - _LENGTH)
            read, qualities = _read(genome[start : start + _LENGTH], chance)
            file.write(f"@{job.sample}.{number}\n{read}\n+\n{qualities}\n")
            _tell(job, number, "reads written")
    print(f"{_READS} reads of {_LENGTH} bases from a genome of {_GENOME}")


def _read(bases: str, chance: random.Random) -> tuple[str, str]:
    read, qualities = [], []
    for place, base in enumerate(bases):
        quality = max(5, 40 - place // 5 - chance.randrange(6))
        is_wrong = chance.random() < 10 ** (-quality / 10)
        read.append(chance.choice("ACGT") if is_wrong else base)
        qualities.append(chr(33 + quality))
    return "".join(read), "".join(qualities)


def quality(job: Job) -> None:
    """Write the mean quality at each place of the reads."""
    sums = [0] * _LENGTH
    for number, (_, qualities) in enumerate(_reads(job)):
        for place, character in enumerate(qualities):
            sums[place] += ord(character) - 33
        _tell(job, number, "reads looked at")
    lines = [f"{place}\t{total / _READS:.2f}" for place, total in enumerate(sums, 1)]
    (job.results / "quality.tsv").write_text("place\tmean quality\n" + "\n".join(lines) + "\n")
    print(f"mean quality {sum(sums) / _READS / _LENGTH:.1f}")


def count_kmers(job: Job) -> None:
    """Count all k-mers of 21 bases, and keep the frequent ones."""
    counts: Counter[str] = Counter()
    for number, (read, _) in enumerate(_reads(job)):
        counts.update(read[start : start + _KMER] for start in range(len(read) - _KMER + 1))
        _tell(job, number, "reads counted")
    trusted = {kmer: count for kmer, count in counts.items() if count >= _TRUSTED}
    _kmers_file(job).write_text(json.dumps(trusted))
    print(f"{len(counts)} k-mers, {len(trusted)} of them seen {_TRUSTED} times or more")


def assemble(job: Job) -> None:
    """Join k-mers that overlap into contigs, the most frequent first."""
    left: dict[str, int] = json.loads(_kmers_file(job).read_text())
    whole, contigs = len(left), []
    while left:
        seed = max(left, key=left.__getitem__)
        del left[seed]
        contigs.append(_extended(seed, left))
        job.progress_nowait(1 - len(left) / whole, f"{len(contigs)} contigs")
    contigs.sort(key=len, reverse=True)
    text = "".join(f">contig_{number} length={len(contig)}\n{contig}\n" for number, contig in enumerate(contigs, 1))
    (job.results / f"{job.sample}.fasta").write_text(text)
    print(f"{len(contigs)} contigs, the longest has {len(contigs[0])} bases of {_GENOME}")


def _extended(contig: str, left: dict[str, int]) -> str:
    """Return a contig extended by overlapping k-mers, first to its right and then to its left."""
    while longer_by := next((base for base in "ACGT" if left.pop(contig[1 - _KMER :] + base, 0)), ""):
        contig += longer_by
    while before := next((base for base in "ACGT" if left.pop(base + contig[: _KMER - 1], 0)), ""):
        contig = before + contig
    return contig


def _reads_file(job: Job) -> Path:
    return job.workdir / "reads.fastq"


def _kmers_file(job: Job) -> Path:
    return job.workdir / "kmers.json"


def _reads(job: Job) -> Iterator[tuple[str, str]]:
    lines = _reads_file(job).read_text().splitlines()
    if len(lines) != _READS * 4:
        raise StepFailed("the reads of the first step are not whole; start a new run")
    return zip(lines[1::4], lines[3::4], strict=True)


def _tell(job: Job, number: int, what: str) -> None:
    if number % _EACH == 0:
        job.progress_nowait(number / _READS, f"{number} {what}")
