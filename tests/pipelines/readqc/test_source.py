"""Plain and packed files come out the same; a damaged one is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipelines.readqc.reads import dice_reads, fastq
from tidewire.pipelines.readqc import source as module
from tidewire.pipelines.readqc.broken import BrokenFastq
from tidewire.pipelines.readqc.source import Source

TEXT = fastq(dice_reads(3_000, range(30, 90)))
PACKED = gzip.compress(TEXT)


def content(path: Path) -> bytes:
    with Source(path) as source:
        text = b"".join(source.blocks())
        assert source.taken == source.size == path.stat().st_size
    return text


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        PACKED,
        gzip.compress(TEXT[:1_000]) + gzip.compress(TEXT[1_000:]),
        gzip.compress(b"") + PACKED + gzip.compress(b""),
        PACKED + b"\0" * 512,
    ],
    ids=["plain", "gzip", "members", "empty members", "padded"],
)
def test_the_content_of_a_file(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reads.fq"
    path.write_bytes(data)
    assert content(path) == TEXT
    monkeypatch.setattr(module, "BLOCK", 501)
    assert content(path) == TEXT


def test_many_small_members_come_as_one_block(tmp_path: Path) -> None:
    """Else 57 KB with a record of 15 MiB and a member for each further byte would take minutes."""
    path = tmp_path / "reads.fq.gz"
    text = TEXT[:500]
    path.write_bytes(b"".join(gzip.compress(bytes([byte])) for byte in text))
    with Source(path) as source:
        assert list(source.blocks()) == [text]


def test_what_comes_before_the_damage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reads.fq.gz"
    path.write_bytes(gzip.compress(TEXT[:500]) + b"rubbish")
    with Source(path) as source:
        blocks = source.blocks()
        assert next(blocks) == TEXT[:500]
        with pytest.raises(BrokenFastq, match="damaged"):
            next(blocks)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the file is empty"),
        (PACKED[:-9], "the gzip data ends too early"),
        (PACKED[: len(PACKED) // 2], "the gzip data ends too early"),
        (PACKED[:5_000] + b"\0\1\2\3" * 20 + PACKED[5_080:], "the gzip data is damaged near byte"),
        (PACKED + b"rubbish", "the gzip data is damaged"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b">chr1\nACGT\n", "a FASTA file"),
    ],
    ids=["empty", "cut at the end", "cut in the middle", "damaged", "rubbish behind it", "bzip2", "zip", "fasta"],
)
def test_what_is_no_fastq_file_is_told(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "reads.fq"
    path.write_bytes(data)
    with pytest.raises(BrokenFastq, match=problem):
        content(path)


def test_a_packed_file_that_becomes_huge_comes_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "huge.fq.gz"
    path.write_bytes(gzip.compress(b"@" + bytes(15 << 20)))
    with Source(path) as source:
        assert max(map(len, source.blocks())) <= module.BLOCK
