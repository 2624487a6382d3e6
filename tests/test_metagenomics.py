"""The metagenomics example with the real programs: the first of them each time, all five when asked."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from requirements import require
from tidewire import Hub
from tidewire.pipelines import NotNow, Pipeline, PipelineLimits, Pipelines, Run, RunStatus, load

EXAMPLE = Path(__file__).parents[1] / "examples" / "metagenomics"
FIRST = {"fastqc": "fastqc", "bwa": "bwa", "samtools": "samtools"}
ALL = FIRST | {"kraken2": "kraken2", "metaspades": "spades", "prokka": "prokka"}

pytestmark = pytest.mark.xdist_group("metagenomics")


def installed(programs: dict[str, str]) -> None:
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    require(not missing, f"apt-get install --no-install-recommends {' '.join(missing)}")


def prepare(folder: Path, pairs: int) -> Pipeline:
    """Copy the example and make its data; returns its pipeline."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    command = [sys.executable, "prepare.py", "--pairs", str(pairs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0 or "is not installed" in done.stderr, done.stderr
    return load(folder / "metagenomics.toml")


async def run(pipeline: Pipeline, folder: Path) -> tuple[Run, Path]:
    """Run it for the sample; returns the run and the folder of its results."""
    hub = Hub("memory://")
    async with (
        hub,
        Pipelines(
            hub, folder / "runs", [pipeline], inputs=folder / "data" / "reads", limits=PipelineLimits(threads=2)
        ) as pipelines,
    ):
        started = await pipelines.start(pipeline.name, "pond")
        ended = await pipelines.wait(started.run.id)
        results = await pipelines.results(ended.id)
        assert results
        return ended, (await pipelines.result(ended.id, results[0].name)).parent


def finished(ended: Run) -> None:
    assert ended.status is RunStatus.FINISHED, [(step.name, step.error, step.lines) for step in ended.steps]
    assert {step.progress for step in ended.steps} == {100}


def test_the_first_programs_for_real(tmp_path: Path) -> None:
    installed(FIRST)
    pipeline = prepare(tmp_path / "example", pairs=1_500)
    first = msgspec.structs.replace(pipeline, steps=pipeline.steps[:4])
    assert {step.run[0] for step in first.steps} == set(FIRST)
    ended, results = asyncio.run(run(first, tmp_path / "example"))
    finished(ended)
    assert "3000 + 0 primary\n" in (results / "flagstat.txt").read_text()
    assert "Per base sequence quality" in (results / "pond_R1_fastqc.html").read_text()
    quick = subprocess.run(["samtools", "quickcheck", results / "aligned.bam"], timeout=20, check=False)
    assert quick.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_five_for_real(tmp_path: Path) -> None:
    installed(ALL)
    ended, results = asyncio.run(run(prepare(tmp_path / "example", pairs=12_000), tmp_path / "example"))
    finished(ended)
    found = dict(line.split("\t") for line in (results / "summary.tsv").read_text().splitlines())
    shares = {
        name.removeprefix("reads of "): float(value.rstrip("%")) for name, value in found.items() if "of " in name
    }
    # They make up 21, 10.2 and 5.6 of 38.6 parts; the stranger is the rest, and nobody knows it.
    assert shares["Fictobacter tidensis"] == pytest.approx(54.4, abs=3)
    assert shares["Fictobacter fluvialis"] == pytest.approx(26.4, abs=3)
    assert shares["Imaginibacillus profundus"] == pytest.approx(14.5, abs=3)
    assert shares["unclassified"] == pytest.approx(4.7, abs=2)
    # Four genomes without repeats come out in hardly more pieces, and about as long as they were made.
    assert 4 <= int(found["contigs"]) <= 12
    assert int(found["bases"].replace(",", "")) == pytest.approx(115_000, rel=0.05)
    assert 100 <= int(found["known genes"]) < int(found["genes"]), "the stranger's genes are in no database"
    assert "simulated protein" in (results / "pond.gff").read_text()


def test_a_missing_program_is_named_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reads = tmp_path / "data" / "reads"
    reads.mkdir(parents=True)
    for mate in (1, 2):
        (reads / f"pond_R{mate}.fastq.gz").write_bytes(gzip.compress(b"@a\nA\n+\nI\n"))
    with pytest.raises(NotNow, match=r"metaspades \(step 'assemble'\).*apt-get install .*spades"):
        asyncio.run(run(load(EXAMPLE / "metagenomics.toml"), tmp_path))


def test_the_same_seed_makes_the_same_sample(tmp_path: Path) -> None:
    code = """
import sys, pathlib, simulate
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
genomes = simulate.make_genomes(int(sys.argv[2]))
simulate.write_reference(genomes, folder)
simulate.write_reads(genomes, folder, "x", 200, int(sys.argv[2]))
"""
    made = []
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        subprocess.run([sys.executable, "-c", code, tmp_path / name, seed], cwd=EXAMPLE, timeout=60, check=True)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    assert all(made[0][name] != made[2][name] for name in ("reference.fa", "x_R1.fastq.gz", "x_R2.fastq.gz"))
    reads = gzip.decompress(made[0]["x_R1.fastq.gz"]).split(b"\n")
    assert {len(line) for line in reads[1::4]} == {150}
