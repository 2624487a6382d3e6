"""Splits blocks of bytes into batches of checked reads. Its input comes from `source`; `tally` counts the batches.

A record is four lines: `@name`, the bases, `+`, one quality character for each base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tidewire.pipelines.file_kinds import table_kind
from tidewire.pipelines.readqc.broken import BrokenFastq

__all__ = ("RECORD_SIZE", "Batch", "read_batches")

#: Bytes of the longest record, twice that of the longest read known; a longer one means that the file has no line ends.
RECORD_SIZE = 16 << 20
#: Bytes of blank lines at the end of a file.
BLANK_SIZE = 64 << 20

_BASES = b"ACGTUNRYSWKMBDHVacgtunryswkmbdhv.-*"
_QUALITIES = bytes(range(33, 127))
_SHOWN = 40
#: Characters of the longest name of a read that is taken for one.
_NAME = 500
_ZEROS = ": the disk was full, or the copy broke off; copy the file again"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive reads of a file; the quality of a read is as long as its bases."""

    bases: list[bytes]
    qualities: list[bytes]


def read_batches(blocks: Iterable[bytes]) -> Iterator[Batch]:
    """Yield the reads of a file in batches. Raises BrokenFastq with the number of the wrong line."""
    rest, done, blank, blank_size = b"", 0, 0, 0
    for block in _with_line_feeds(blocks):
        if block and not rest.strip(b"\n") and not block.strip(b"\n"):
            # one blank line is not worth a list of a million
            blank = blank or done + 1
            blank_size += len(block)
            if blank_size > BLANK_SIZE:
                raise BrokenFastq(
                    f"the file has more than {BLANK_SIZE >> 20} MiB of blank lines from line {blank} on; "
                    "this is no FASTQ file, or it was damaged"
                )
            rest = b"\n"
            continue
        text = rest + block
        lines = text.split(b"\n")
        whole = (len(lines) - 1) // 4 * 4
        rest = b"\n".join(lines[whole:])
        if len(rest) > RECORD_SIZE:
            _check_line_ends(rest, done)
            raise BrokenFastq(
                f"the record that begins at line {done + 1} is longer than {RECORD_SIZE >> 20} MiB; "
                "this is no FASTQ file, or its lines do not end with a line feed"
            )
        if blank and text.strip(b"\r\n"):
            raise _blank(blank)
        kept = _without_blank_end(lines, whole)
        blank = blank or (done + kept + 1 if kept < whole else 0)
        if kept:
            yield _batch(lines[:kept], done)
        done += whole
    last = _last_record(rest, done)
    if blank and last:
        raise _blank(blank)
    if last:
        yield _batch(last, done)


def _with_line_feeds(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks whose lines end with a line feed; a CR LF may be split between two blocks."""
    held = b""
    for block in blocks:
        if held or b"\r" in block:
            text = held + block
            held = b"\r" if text.endswith(b"\r") else b""
            yield text[: len(text) - len(held)].replace(b"\r\n", b"\n")
        else:
            yield block
    yield held


def _without_blank_end(lines: list[bytes], whole: int) -> int:
    """Return the number of lines of whole records without the blank lines at their end."""
    while whole and not any(lines[whole - 4 : whole]):
        whole -= 4
    return whole


def _blank(line: int) -> BrokenFastq:
    return BrokenFastq(f"line {line} is blank, and more reads come after it; take the blank lines out")


def _last_record(rest: bytes, done: int) -> list[bytes]:
    """Return the lines of the last record of a file. Raises BrokenFastq for a part of a record."""
    lines = rest.rstrip(b"\r\n").split(b"\n")
    if lines == [b""]:
        return []
    if len(lines) == 3 and not lines[1]:
        lines.append(b"")
    if len(lines) < 4:
        line = done + len(lines)
        if problem := next(_head_problems(lines, done), ""):
            raise BrokenFastq(problem)
        _check_line_ends(b"\n".join(lines), done)
        if line == 1 and len(lines[0]) > _NAME:
            raise BrokenFastq(
                "the file is one long line: its line feeds were taken out, as `curl -d` does; send it with "
                "`curl --data-binary`, or copy it again"
            )
        raise BrokenFastq(
            f"the file ends at line {line}, within the record that begins at line {done + 1}: a record has 4 lines; "
            "the file is cut off, copy it again"
        )
    if rest.endswith(lines[3]) and lines[2].startswith(b"+") and len(lines[3]) < len(lines[1]):
        raise BrokenFastq(
            f"line {done + 4} has {len(lines[3])} quality characters for the {len(lines[1])} bases of line {done + 2}, "
            "and the file ends here; the file is cut off, copy it again"
        )
    return lines


def _check_line_ends(record: bytes, before: int) -> None:
    """Raise BrokenFastq for a carriage return within a line."""
    for at, line in enumerate(record.split(b"\n"), before + 1):
        if b"\r" in line:
            raise BrokenFastq(
                f"line {at} has a carriage return in it, as the lines of old Macs end (CR); give the file line feeds: "
                "tr '\\r' '\\n' < old > new"
            )


def _batch(lines: list[bytes], before: int) -> Batch:
    heads, bases, marks, qualities = lines[0::4], lines[1::4], lines[2::4], lines[3::4]
    if (
        {head[:1] for head in heads} != {b"@"}
        or {mark[:1] for mark in marks} != {b"+"}
        or list(map(len, bases)) != list(map(len, qualities))
        or b"".join(bases).translate(None, _BASES)
        or b"".join(qualities).translate(None, _QUALITIES)
    ):
        raise BrokenFastq(next(_problems(lines, before)))
    if b"\r" in b"".join(heads):
        _check_line_ends(b"\n".join(lines), before)
    return Batch(bases, qualities)


def _problems(lines: list[bytes], before: int) -> Iterator[str]:
    """Yield the problems, record by record."""
    for at in range(0, len(lines), 4):
        head, bases, mark, quality = lines[at : at + 4]
        line = before + at + 1
        yield from _head_problems([head], line - 1)
        if wrong := bases.translate(None, _BASES):
            hint = _bases_hint(bases)
            yield f"line {line + 1} should hold bases, but has the character {_shown(wrong[:1])}{hint}"
        if not mark.startswith(b"+"):
            hint = "" if mark.translate(None, _BASES) else "; reads that go over several lines are not supported"
            yield f"line {line + 2} should begin with '+', but is {_shown(mark)}{hint}"
        if wrong := quality.translate(None, _QUALITIES):
            hint = _ZEROS if b"\0" in wrong else ""
            yield f"line {line + 3} should hold qualities, but has the character {_shown(wrong[:1])}{hint}"
        if len(bases) != len(quality):
            yield (
                f"line {line + 3} has {len(quality)} quality characters for the {len(bases)} bases of line {line + 1}; "
                "both must be equal in number"
            )


def _bases_hint(bases: bytes) -> str:
    """Return an explanation of a line with characters that are no bases, and how to mend it."""
    if b"\0" in bases:
        return _ZEROS
    if bases.strip() != bases:
        return "; take the white space at the ends of lines out"
    if bases[:1] in (b"T", b"G") and not bases[1:].translate(None, b"0123."):
        return "; these are colours (SOLiD), which need a program that translates them"
    return ""


def _head_problems(lines: list[bytes], before: int) -> Iterator[str]:
    if not lines[0].startswith(b"@"):
        if not lines[0]:
            yield str(_blank(before + 1))
        if lines[0].startswith(b"\0"):
            yield f"line {before + 1} begins with a zero byte{_ZEROS}"
        if not before and (kind := table_kind(lines[0])):
            yield f"the file is {kind}"
        yield f"line {before + 1} should be the name of a read and begin with '@', but is {_shown(lines[0])}"


def _shown(text: bytes) -> str:
    cut = text[:_SHOWN].decode("ascii", "backslashreplace")
    return f"{cut + '…' if len(text) > _SHOWN else cut!r}"
