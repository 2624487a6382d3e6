"""The command, as a process."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.readqc.reads import dice_reads, fastq


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidewire.pipelines.readqc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_file_becomes_three(tmp_path: Path) -> None:
    file = tmp_path / "reads.fq.gz"
    file.write_bytes(gzip.compress(fastq(dice_reads(20_000, range(40, 90)))))
    done = run("measure", "--name", "tuesday", "--output", tmp_path / "out", file)
    assert done.returncode == 0, done.stderr
    assert "100.0% ·" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["readqc.html", "readqc.json", "readqc.tsv"]
    assert "<title>tuesday" in (tmp_path / "out" / "readqc.html").read_text()
    assert "reads of 40–89 bases" in run("look", file).stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"@a\nACGT\n+\nIII\n", "reads.fq: line 4 has 3 quality characters"),
        (b"\n\n\n\n\n", "reads.fq: the file holds no read"),
        (b"", "reads.fq: the file is empty"),
    ],
)
def test_a_broken_file_is_told_in_one_line_and_leaves_nothing(tmp_path: Path, text: bytes, problem: str) -> None:
    file = tmp_path / "reads.fq"
    file.write_bytes(text)
    for arguments in (("look",), ("measure", "--output", tmp_path / "out")):
        done = run(*arguments, file)
        assert done.returncode == 1
        assert done.stderr.startswith(problem)
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = run("look", tmp_path / "none.fq")
    assert done.returncode == 1
    assert "none.fq: No such file or directory" in done.stderr


@pytest.mark.slow
def test_a_big_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "big.fq"
    block = fastq(dice_reads(4_000, range(100, 101)))
    with file.open("wb") as out:
        for _ in range(200):
            out.write(block)
    assert file.stat().st_size > 150_000_000
    command = [sys.executable, "-m", "tidewire.pipelines.readqc", "measure", "--output", str(tmp_path), str(file)]
    # Address space, so that the limit holds from the first byte: 300 MiB for what a file of any size needs.
    limit = (300 << 20, 300 << 20)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert done.returncode == 0, done.stderr
    assert "800,000 reads" in done.stdout
