"""Records are found whatever the blocks, and a broken one is told with its line."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.readqc.reads import dice_reads, fastq
from tidewire.pipelines.readqc import fastq as module
from tidewire.pipelines.readqc.broken import BrokenFastq
from tidewire.pipelines.readqc.fastq import read_batches

GOOD = b"@a\nACGT\n+\nIIII\n"


def read(blocks: Iterable[bytes]) -> list[tuple[str, str]]:
    return [
        (bases.decode(), quality.decode())
        for batch in read_batches(blocks)
        for bases, quality in zip(batch.bases, batch.qualities, strict=True)
    ]


@given(st.data(), st.lists(st.text("ACGTN", max_size=9), max_size=12), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_records_are_the_same_however_the_file_is_cut(
    data: st.DataObject, bases: list[str], end: bytes, has_end: bool
) -> None:
    reads = [(read, "I" * len(read)) for read in bases]
    text = fastq(reads).replace(b"\n", end)
    if not has_end and text:
        text = text[: -len(end)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    blocks = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(blocks) == reads


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD + b"ACGT\n+\nIIII\n@b\n", r"line 5 should be the name of a read and begin with '@', but is 'ACGT'"),
        (GOOD + b"@b\nACXT\n+\nIIII\n", "line 6 should hold bases, but has the character 'X'"),
        (GOOD + b"@b\nACGT\nIIII\n+\n", r"line 7 should begin with '\+', but is 'IIII'$"),
        (GOOD + b"@b\nACGT\nACGT\n+\n", "line 7 should begin with .* several lines are not supported"),
        (GOOD + b"@b\nACGT\n+\nIII\n", "line 8 has 3 quality characters for the 4 bases of line 6"),
        (GOOD + b"@b\nACGT\n+\nI II\n", "line 8 should hold qualities, but has the character ' '"),
        (GOOD + b"@b\nACGT\n+\nII\xc3\xa9\n", r"line 8 should hold qualities, but has the character '\\\\xc3'"),
        (GOOD + b"@b\nACGT\n+\n", "the file ends at line 7, within the record that begins at line 5"),
        (GOOD + b"@b\nACGT\n+\nII", "line 8 has 2 quality characters for the 4 bases of line 6"),
        (GOOD + b"@b\nAC", "the file ends at line 6"),
        (GOOD + b"\n" * 9 + GOOD, "line 5"),
        (GOOD.replace(b"\n", b"\r"), "old Macs"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_broken_record_is_told_with_its_line(text: bytes, problem: str, piece: int) -> None:
    blocks = [text[begin : begin + piece] for begin in range(0, len(text), piece)]
    with pytest.raises(BrokenFastq, match=problem):
        read(blocks)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_blank_lines_at_the_end_are_no_reads(piece: int) -> None:
    text = GOOD + b"\r\n" * 11
    assert read(text[begin : begin + piece] for begin in range(0, len(text), piece)) == [("ACGT", "IIII")]


def test_a_read_without_bases_is_a_read() -> None:
    assert read([b"@a\n\n+\n\n" + GOOD]) == [("", ""), ("ACGT", "IIII")]
    assert read([GOOD + b"@a\n\n+"]) == [("ACGT", "IIII"), ("", "")]


def test_a_line_number_counts_all_blocks_before() -> None:
    reads = fastq(dice_reads(1_000, range(20, 90)))
    blocks = [reads] * 3 + [GOOD, b"@b\nACGT\n-\nIIII\n"]
    with pytest.raises(BrokenFastq, match="line 12007 should begin"):
        read(blocks)


def test_a_file_without_ends_of_lines_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORD_SIZE", 1 << 20)
    taken = []

    def blocks() -> Iterable[bytes]:
        while True:
            taken.append(1)
            yield b"A" * (1 << 18)

    with pytest.raises(BrokenFastq, match="line 1 is longer than 1 MiB"):
        read(blocks())
    assert len(taken) == 5
