"""Make the folder `data`: a sample to run the pipelines on, and what the programs compare it with.

    python3 prepare.py

Needs no network. A program that is not installed is named, and what it would have built is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import simulate

#: Each program that builds something, its Debian package, and the pipeline that does not run without.
PACKAGES = {"bwa": "bwa", "kraken2-build": "kraken2", "makeblastdb": "ncbi-blast+"}


def main() -> int:
    """Make the data; returns 1 when a program is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument(
        "--sample", default="pond", help="its name; the files are SAMPLE_R1.fastq.gz and SAMPLE_R2.fastq.gz"
    )
    parser.add_argument("--pairs", type=int, default=12_000, help="how many pairs of reads")
    parser.add_argument("--seed", type=int, default=7, help="another number makes other bacteria")
    given = parser.parse_args()
    reference = given.output / "reference"
    reads = given.output / "reads"
    for folder in (reference, reads):
        folder.mkdir(parents=True, exist_ok=True)
    genomes = simulate.make_genomes(given.seed)
    simulate.write_reference(genomes, reference)
    for path in simulate.write_reads(genomes, reads, given.sample, given.pairs, given.seed):
        print(f"{path}: {given.pairs:,} reads")
    missing = [program for program in PACKAGES if shutil.which(program) is None]
    if "bwa" not in missing:
        _run("bwa", "index", reference / "reference.fa")
    if "kraken2-build" not in missing:
        _build_kraken2(reference, given.output / "kraken2")
    if "makeblastdb" not in missing:
        _build_prokka(reference, given.output / "prokka")
    for program in missing:
        print(f"{program} is not installed: apt-get install {PACKAGES[program]}, then run this again", file=sys.stderr)
    return 1 if missing else 0


def _build_kraken2(reference: Path, database: Path) -> None:
    """Build a database of the genomes, with a taxonomy of our own."""
    shutil.rmtree(database, ignore_errors=True)
    taxonomy = database / "taxonomy"
    taxonomy.mkdir(parents=True)
    for name in ("nodes.dmp", "names.dmp"):
        shutil.copy(reference / name, taxonomy / name)
    # The names of the sequences say which taxon each belongs to, so the file that maps them stays empty.
    (taxonomy / "nucl.accession2taxid").touch()
    _run("kraken2-build", "--db", database, "--no-masking", "--add-to-library", reference / "library.fa")
    _run("kraken2-build", "--db", database, "--build", "--threads", os.cpu_count() or 1)
    _run("kraken2-build", "--db", database, "--clean")


def _build_prokka(reference: Path, database: Path) -> None:
    """Build a database of the genomes' proteins: Debian's Prokka comes without any."""
    shutil.rmtree(database, ignore_errors=True)
    folder = database / "kingdom" / "Bacteria"
    folder.mkdir(parents=True)
    (database / "hmm").mkdir()
    shutil.copy(reference / "sprot", folder / "sprot")
    _run("makeblastdb", "-hash_index", "-dbtype", "prot", "-in", folder / "sprot", "-logfile", os.devnull)


def _run(program: str, *arguments: object) -> None:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{program} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
