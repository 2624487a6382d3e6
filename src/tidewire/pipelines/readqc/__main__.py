"""The command `python -m tidewire.pipelines.readqc`: what the steps of the pipeline `readqc` run."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tidewire.pipelines.readqc.errors import BrokenFastq
from tidewire.pipelines.readqc.fastq import read_batches
from tidewire.pipelines.readqc.report import as_html, as_json, as_tsv
from tidewire.pipelines.readqc.source import Source
from tidewire.pipelines.readqc.summary import summarise
from tidewire.pipelines.readqc.tally import Tally

#: Seconds between two lines of progress.
_PACE = 0.25
#: Batches that the quick look reads.
_LOOK = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 1 when the file is broken."""
    parser = argparse.ArgumentParser(prog="readqc", description="How good the reads of a FASTQ file are.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("look", "read the beginning only: is it FASTQ?"),
        ("measure", "read all, and write the report"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("file", type=Path, help="a FASTQ file, plain or .gz")
        if name == "measure":
            command.add_argument("--name", help="the title of the report; by itself the name of the file")
            command.add_argument("--output", type=Path, default=Path(), help="the folder for readqc.{html,json,tsv}")
    given = parser.parse_args(arguments)
    try:
        if given.command == "look":
            _look(given.file)
        else:
            _measure(given.file, given.name or given.file.name, given.output)
    except BrokenFastq as error:
        print(f"{given.file.name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or given.file}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _look(file: Path) -> None:
    with Source(file) as source:
        batches = list(itertools.islice(read_batches(source.blocks()), _LOOK))
        reads = [read for batch in batches for read in batch.bases]
        if not reads:
            raise BrokenFastq("the file holds no read; give a FASTQ file")
        size = f"{source.size / 1e6:,.1f} MB"
    lengths = sorted({len(min(reads, key=len)), len(max(reads, key=len))})
    print(f"{file.name}: {size}, reads of {'–'.join(map(str, lengths))} bases at its beginning")


def _measure(file: Path, name: str, folder: Path) -> None:
    tally = Tally()
    began = shown = time.monotonic()
    with Source(file) as source:
        for batch in read_batches(source.blocks()):
            tally.add(batch)
            now = time.monotonic()
            if now >= shown + _PACE:
                shown = now
                _progress(source, tally)
        if not tally.reads:
            raise BrokenFastq("the file holds no read; give a FASTQ file")
        _progress(source, tally)
    summary = summarise(tally, name)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", as_json(summary)), ("tsv", as_tsv(summary)), ("html", as_html(summary))):
        _write(folder / f"readqc.{suffix}", text)
    seconds = max(time.monotonic() - began, 1e-3)
    print(f"{tally.reads:,} reads, {tally.bases:,} bases in {seconds:.1f} s ({tally.reads / seconds:,.0f} reads/s)")
    for remark in summary.remarks:
        print(remark)


def _progress(source: Source, tally: Tally) -> None:
    percent = 100 * source.taken / max(1, source.size)
    read, whole = source.taken / 1e6, source.size / 1e6
    print(f"progress {percent:.1f}% · {read:,.1f} of {whole:,.1f} MB · {tally.reads:,} reads", flush=True)


def _write(path: Path, text: str) -> None:
    # Complete or not there: who looks at the folder while a run is cancelled never finds half a report.
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
