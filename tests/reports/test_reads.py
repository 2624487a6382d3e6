"""Files of reads as people have them: the wrong kind, new machines, few or long reads, and files made to cost time."""

from __future__ import annotations

import gzip
import lzma
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.readqc.reads import dice_reads, fastq, tallied
from tidewire.pipelines import BadStart, Input, Pipeline, Step
from tidewire.pipelines.checks import find_inputs
from tidewire.pipelines.readqc import fastq as fastq_module
from tidewire.pipelines.readqc.broken import BrokenFastq
from tidewire.pipelines.readqc.summary import Summary, summarise
from tidewire.pipelines.readqc.work import look

READS = fastq(dice_reads(50, range(50, 51)))
PAGE = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PAGE, "a web page"),
        (b"\n  <HTML>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"message": "Not Found"}', "JSON"),
        (READS.decode().encode("utf-16"), "UTF-16"),
        (READS.decode().encode("utf-16-be"), "UTF-16"),
        (b"\xef\xbb\xbf" + READS, "byte order mark"),
        (b">contig 1\nACGT\n", "a FASTA file"),
        (gzip.compress(b">contig 1\nACGT\n", mtime=0), "a FASTA file"),
        (gzip.compress(PAGE, mtime=0), "a web page"),
        (gzip.compress(gzip.compress(READS, mtime=0), mtime=0), "gzip twice"),
        (gzip.compress(b"BAM\x01" + bytes(50), mtime=0), "a BAM file"),
        (b"@HD\tVN:1.6\tSO:coordinate\n", "a SAM file"),
        (bytes(5_000), "zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"/annex/objects/SHA256E-s1--a.fastq\n", "git-annex"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x7fELF" + bytes(60), "a program"),
        (b"SQLite format 3\0" + bytes(60), "a database"),
        (READS.decode().encode("utf-32"), "UTF-32"),
        (b"#!/bin/sh\n", "a script"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + READS, "with its headers"),
        (b"sample,fastq_1,fastq_2\nS1,a_1.fq,a_2.fq\n", "a table, perhaps a sample sheet"),
        (b"chr1\t1\t2\n", "a table"),
        (b"r1\t0\tchr1\t100\t60\t4M\t*\t0\t0\tACGT\tIIII\n", "a SAM file without its header"),
        (READS.replace(b"\n", b"\r"), "old Macs"),
        (b"\n" + READS, "line 1 is blank"),
        (READS.replace(b"\n", b" \n"), "white space at the ends"),
        (b"@1\nT0123.\n+\nIIIIII\n", "colours .SOLiD"),
        (b"just some words\n", "should be the name of a read"),
        (b"<div>Please log in</div>\n", "a web page"),
        (b"<title>403</title>\n", "a web page"),
        (b"\xef\xbb\xbf<!DOCTYPE html>\n", "a web page"),
        (b'<ListBucketResult xmlns="http://s3.amazonaws.com">', "XML"),
        (b'{\r\n  "error": 1}', "JSON"),
        (b'{\t"error": "x", "a": 1, "b": 2}', "JSON"),
        (b'["error"]', "JSON"),
        (READS.decode().encode("utf-32-le"), "UTF-32"),
        (READS.decode().encode("utf-32-be"), "UTF-32"),
        (b"\xef\xbb\xbf>contig 1\nACGT\n", "a FASTA file"),
        (b"@HD\tSO:unsorted\tVN:1.6\n", "a SAM file"),
        (b"@CO\tmade by hand\n@HD\tVN:1.6\n", "a SAM file"),
        (lzma.compress(READS, format=lzma.FORMAT_ALONE), "lzma"),
        (b"LZIP\x01" + bytes(range(99)), "lzip"),
        (b"crypt4gh\1\0\0\0", "encrypted"),
        (random.Random(1).randbytes(3_000), "no text"),
        (bytes(range(1, 200)), "no text"),
        (READS.replace(b"\n", b"\r")[:-1] + b"\n", "old Macs"),
        (READS.replace(b"\n", b"\r") + READS, "old Macs"),
        (READS.replace(b"\n", b"\r") * 4_000, "old Macs"),
        (READS + bytes(500), "zero byte"),
        (READS.replace(b"\n", b""), "curl --data-binary"),
        (READS[:20] + bytes(500) + READS[20:], "disk was full"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_fastq_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    """An HTML page saved as .fastq was "cut off, copy it again", UTF-16 and gzip twice were shown as raw bytes."""
    file = tmp_path / "reads.fastq"
    file.write_bytes(content)
    with pytest.raises(BrokenFastq, match=what) as caught:
        look(file)
    assert str(caught.value).isprintable()
    assert "cut off" not in str(caught.value)


@pytest.mark.parametrize("missing", [1, 20, 49, 51, 60])
def test_a_copy_that_broke_off_is_cut_off(tmp_path: Path, missing: int) -> None:
    """A file cut within the last qualities was told that these are too few for its bases."""
    file = tmp_path / "reads.fastq"
    file.write_bytes(READS.rstrip(b"\n")[:-missing])
    with pytest.raises(BrokenFastq, match="cut off, copy it again"):
        look(file)


def test_a_page_that_is_named_as_gzip_is_named_at_the_start(tmp_path: Path) -> None:
    """A failed download saved as .fastq.gz was only "no gzip file"."""
    file = tmp_path / "S1.fastq.gz"
    file.write_bytes(PAGE)
    definition = Pipeline("a", (Step("a", ("true",)),), inputs=(Input("reads"),))
    with pytest.raises(BadStart, match="a web page"):
        find_inputs(definition, "S1", {"reads": file}, None)


def with_qualities(low: int, high: int, *, number: int = 400, length: int = 100) -> Summary:
    dice = random.Random(5)
    reads = [("A" * length, "".join(chr(33 + dice.randint(low, high)) for _ in range(length))) for _ in range(number)]
    return summarise(tallied(fastq(reads)), "x")


@pytest.mark.parametrize(
    ("low", "high"), [(46, 50), (46, 93), (60, 93), (93, 93), (31, 50), (46, 60), (0, 93), (41, 61), (40, 63)]
)
def test_high_qualities_of_new_machines_begin_at_33(low: int, high: int) -> None:
    """AVITI and HiFi reads of Q46 and more were taken for the encoding that begins at 64 (benjjneb/dada2#682)."""
    found = with_qualities(low, high).qualities
    assert found.encoding == 33
    assert found.mean == pytest.approx((low + high) / 2, abs=1)


def test_long_reads_are_never_of_the_old_encoding() -> None:
    """HiFi reads from Q35 to Q72 were taken for it; its machines had reads of at most 160 bases."""
    assert with_qualities(35, 72, number=20, length=1_500).qualities.encoding == 33


def test_the_old_encoding_is_still_known() -> None:
    """Illumina reads of before 2011 begin at 64, with low qualities and high ones."""
    assert with_qualities(33, 71).qualities.encoding == 64


def remarks_of(reads: list[tuple[str, str]]) -> str:
    return " ".join(summarise(tallied(fastq(reads)), "x").remarks)


def test_long_reads_and_few_reads_give_no_false_alarm() -> None:
    """The beginning of an adapter stands in a long read by chance, and three reads are uneven by chance."""
    dice = random.Random(3)
    long = ["".join(dice.choices("ACGT", k=12_000)) for _ in range(60)]
    marked = [read[:6_000] + "AGATCGGAAGAG" + "A" * 25 + read[6_000:] for read in long]
    assert "trim it" not in remarks_of([(read, "I" * len(read)) for read in marked])
    few = [("".join(dice.choices("ACGT", k=150)), "I" * 150) for _ in range(5)]
    assert "adapter" not in remarks_of(few)
    assert "trim it" not in remarks_of([(few[0][0][:100] + "AGATCGGAAGAG", "I" * 112), *few])
    tails = [(read[0] + "AGATCGGAAGAG", "I" * 162) for read in few * 20]
    assert "trim it" in remarks_of(tails)
    assert "trim it" in remarks_of([(read + "AGATCGGAAGAG", "I" * (len(read) + 12)) for read in long])


def test_empty_and_short_reads_are_no_duplicates() -> None:
    """Empty reads, as a trimmer leaves them, counted as duplicates of each other."""
    reads = dice_reads(100, range(60, 61), letters="ACGT")
    trimmed = [("", "")] * 300 + [("ACG", "III")] * 300 + [("N" * 60, "!" * 60)] * 300
    assert summarise(tallied(fastq(reads + trimmed)), "x").duplicates.percent == 0
    assert "duplicates" not in remarks_of([("ACGT" * 20, "I" * 80)] * 2)


def run_readqc(file: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tidewire.pipelines.readqc", "measure", "--output", str(file.parent), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)),
    )
    return done, time.monotonic() - before


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"\n", id="line feeds"),
        pytest.param(b"@\n\n+\n\n", id="empty", marks=pytest.mark.slow),
        pytest.param(b"@r\nA\n+\nI\n", id="alike", marks=pytest.mark.slow),
    ],
)
def test_a_small_file_that_unpacks_to_much_ends_soon(tmp_path: Path, line: bytes) -> None:
    """A gzip of 1 GiB of line feeds ran for 90 s. A quarter of one is more than is ever read of it."""
    file = tmp_path / "bomb.fastq.gz"
    with gzip.open(file, "wb", compresslevel=6) as out:
        block = line * ((1 << 24) // len(line))
        for _ in range(16):
            out.write(block)
    done, seconds = run_readqc(file)
    assert (done.returncode, "no FASTQ file" in done.stderr) == (1, True), done.stderr
    assert seconds < 45


def test_very_long_reads_take_bounded_memory(tmp_path: Path) -> None:
    """Reads of 30 MiB took 547 MiB of memory; the longest known have some 4 million bases."""
    file = tmp_path / "long.fastq"
    size = fastq_module.RECORD_SIZE // 2 - 1_000
    bases, quality = b"ACGT" * (size // 4), b"I" * (size // 4 * 4)
    file.write_bytes(b"".join(b"@%d\n%b\n+\n%b\n" % (n, bases, quality) for n in range(3)))
    done, _ = run_readqc(file)
    assert done.returncode == 0, done.stderr
    file.write_bytes(b"@1\n%b\n+\n%b\n" % (b"A" * (30 << 20), b"I" * (30 << 20)))
    done, _ = run_readqc(file)
    assert (done.returncode, "longer than 16 MiB" in done.stderr) == (1, True), done.stderr
