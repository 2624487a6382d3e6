"""Reads the beginning of a file, or all of it and writes the report; used by the pipeline's steps and the command."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

from tidewire.pipelines.readqc.broken import BrokenFastq
from tidewire.pipelines.readqc.fastq import read_batches
from tidewire.pipelines.readqc.report import as_html, as_json, as_tsv
from tidewire.pipelines.readqc.source import Source
from tidewire.pipelines.readqc.summary import Summary, summarise
from tidewire.pipelines.readqc.tally import Tally

__all__ = ("look", "measure")

#: Seconds between two progress reports.
_PACE = 0.25
#: Batches that `look` reads.
_LOOK = 4


def look(file: Path) -> str:
    """Return a description of the beginning of a file in one line. Raises BrokenFastq."""
    with Source(file) as source:
        batches = list(itertools.islice(read_batches(source.blocks()), _LOOK))
        reads = [read for batch in batches for read in batch.bases]
        if not reads:
            raise _no_read()
        size = f"{source.size / 1e6:,.1f} MB"
    lengths = sorted({len(min(reads, key=len)), len(max(reads, key=len))})
    return f"{file.name}: {size}, reads of {'–'.join(map(str, lengths))} bases at its beginning"


def measure(file: Path, name: str, folder: Path, tell: Callable[[float, str], object]) -> Summary:
    """Read a whole file and write its report; `tell` is called with the progress (0 to 1). Raises BrokenFastq."""
    tally = Tally()
    reported = time.monotonic()
    with Source(file) as source:
        for batch in read_batches(source.blocks()):
            tally.add(batch)
            if time.monotonic() >= reported + _PACE:
                reported = time.monotonic()
                _tell_of(source, tally, tell)
        if not tally.reads:
            raise _no_read()
        _tell_of(source, tally, tell)
    summary = summarise(tally, name)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", as_json(summary)), ("tsv", as_tsv(summary)), ("html", as_html(summary))):
        _write(folder / f"readqc.{suffix}", text)
    return summary


def _no_read() -> BrokenFastq:
    return BrokenFastq("the file holds no read; give a FASTQ file")


def _tell_of(source: Source, tally: Tally, tell: Callable[[float, str], object]) -> None:
    read, whole = source.taken / 1e6, source.size / 1e6
    tell(source.taken / max(1, source.size), f"{read:,.1f} of {whole:,.1f} MB · {tally.reads:,} reads")


def _write(path: Path, text: str) -> None:
    # Renamed when complete: a cancelled run never leaves half a report.
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
