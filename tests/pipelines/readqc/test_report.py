"""What the report says, and that each form of it is sound."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from pipelines.readqc.reads import dice_reads, fastq, tallied
from tidewire.pipelines.readqc.report import as_html, as_json, as_tsv
from tidewire.pipelines.readqc.summary import Summary, summarise

TRUSEQ = "AGATCGGAAGAGCACACG"


def summary(text: bytes, name: str = "sample") -> Summary:
    return summarise(tallied(text), name)


def test_the_values_of_a_small_file() -> None:
    found = summary(b"@a\nACGT\n+\n+5?I\n@b\nGGGN\n+\nIIII\n@c\nAC\n+\nII\n")
    assert (found.reads, found.bases, found.lengths.median) == (3, 10, 4)
    assert found.lengths.mean == 3.3
    assert found.letters.gc == 66.667
    assert found.letters.other == 10
    assert found.letters.at[3] == (4, 0, 0, 0, 50, 50)
    assert found.letters.gc_of_reads == ((50, 2), (75, 1))
    first = found.qualities.at[0]
    assert (first.mean, first.p10, first.median, first.p90) == (30, 10, 40, 40)
    assert (found.qualities.q20, found.qualities.q30, found.qualities.encoding) == (90, 80, 33)


def test_the_old_encoding_is_found_out() -> None:
    assert summary(b"@a\nACGT\n+\nhhhB\n").qualities.encoding == 64
    assert summary(b"@a\nACGT\n+\nhhhB\n").qualities.at[0].median == 40
    assert summary(b"@a\nACGT\n+\nFFFF\n").qualities.encoding == 33, "all bases are sure, as new machines say it"


def test_what_stands_out_is_said() -> None:
    reads = dice_reads(300, range(80, 81), letters="ACGT")
    calm = [(bases, "I" * 80) for bases, _ in reads]
    assert summary(fastq(calm)).remarks == ()
    bad = [(bases[:40] + TRUSEQ + "N" * 22, "I" * 60 + "#" * 20) for bases, _ in reads]
    said = " ".join(summary(fastq(bad + bad)).remarks)
    for words in (
        "under 20 at 20 positions, first at 61",
        "100.0% of the reads hold Illumina TruSeq",
        "50% of the reads are duplicates",
        "27.5% of the bases are not known",
    ):
        assert words in said


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    page = as_html(summary(fastq(dice_reads(200, range(30, 90))), "<script>alert(1)</script> & co"))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert not re.search(r"\b(src|href|on\w+)=", page)
    assert "default-src 'none'" in page
    HTMLParser().feed(page)
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 6
    for plot in plots:
        assert ElementTree.fromstring(plot).get("aria-label")
    assert "nan" not in "".join(plots)


def test_the_page_of_the_least_there_is() -> None:
    assert "Nothing stands out" in as_html(summary(b"@a\nA\n+\nI\n"))
    assert "<svg" not in as_html(summary(b"@a\n\n+\n\n"))


def test_json_and_table_say_the_same() -> None:
    found = summary(fastq(dice_reads(200, range(30, 90))))
    values = json.loads(as_json(found))
    assert values["reads"] == 200
    cells = [line.split("\t") for line in as_tsv(found).splitlines()]
    assert {len(row) for row in cells} == {4}
    table = {(row[0], row[1], row[2]): row[3] for row in cells}
    assert table["summary", "all", "reads"] == "200"
    assert table["quality_at", "7", "median"] == str(values["qualities"]["at"][6]["median"])
    assert table["bases_at", "30", "N"] == str(values["letters"]["at"][29][5])
