"""The command `python -m tidewire.pipelines.readqc`: a report on a file without a server or a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tidewire.pipelines.readqc.broken import BrokenFastq
from tidewire.pipelines.readqc.work import look, measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 1 when the file is broken or cannot be read."""
    parser = argparse.ArgumentParser(prog="readqc", description="How good the reads of a FASTQ file are.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("look", "read the beginning only: is it FASTQ?"), ("measure", "read all, write the report")):
        command = commands.add_parser(name, help=what)
        command.add_argument("file", type=Path, help="a FASTQ file, plain or .gz")
        if name == "measure":
            command.add_argument("--name", help="the title of the report; by itself the name of the file")
            command.add_argument("--output", type=Path, default=Path(), help="the folder for readqc.{html,json,tsv}")
    given = parser.parse_args(arguments)
    try:
        if given.command == "look":
            print(look(given.file))
        else:
            for remark in measure(given.file, given.name or given.file.name, given.output, _tell).remarks:
                print(remark)
    except BrokenFastq as error:
        print(f"{given.file.name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or given.file}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _tell(fraction: float, message: str) -> None:
    print(f"{fraction:6.1%} · {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
