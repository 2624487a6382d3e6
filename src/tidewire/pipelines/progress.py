"""The progress of a program, from its output or from its position in an input. Standard library only, as `output`."""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ("Rule", "percent", "rule_from")

#: Bytes of an unfinished line that are kept, and bytes at each end of much output that are searched.
_LINE, _FLOOD = 65_536, 65_536
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d*)?")
_POINTED = re.compile(r"\d{1,3}(\.\d{3})+(,\d*)?")
#: A number with a unit, as bars write them: 1.2k, 512KiB, 3 GB.
_NUMBER = re.compile(r"(\d*[\d.,]+(?:[eE][-+]?\d+)?)([kKMGTP]?)(i?)(?:[Bb]|it|bp|ytes)?")
_UNITS = {unit: power for power, unit in enumerate(" kMGTP")} | {"": 0, "K": 1}
#: Separators between the digits of a number, and spaces that do not break a line.
_BETWEEN = re.compile(r"[\s'\u2019_]")
_SPACES = re.compile(rb"\xc2\xa0|\xe2\x80\xaf")
#: Colours and movements of a terminal; the last one may be incomplete.
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|\Z)|[ -/]*[0-Z\\-~]|\Z)")


def percent(fraction: float) -> int:
    """Return a fraction as a whole percentage, rounded down; 0.29 * 100 is 28.999… in binary, and yet 29."""
    return int(round(fraction * 100, 6))


class Rule:
    """No rule: only the program itself may report its progress."""

    #: 0 to 1.
    fraction: float = 0.0
    #: The end of the output so far may be progress, or only its beginning: `settle` decides when no more comes.
    is_unsettled: bool = False

    def feed(self, data: bytes) -> None:
        """Take output."""

    def settle(self) -> None:
        """Take the end of the output as complete, because nothing more has come for a while."""

    def look(self, pids: Iterable[int]) -> None:
        """Inspect the program's processes."""


class _Pattern(Rule):
    """A regular expression on each line: one group is a percentage, two are done and of how many."""

    def __init__(self, pattern: str) -> None:
        self._find = re.compile(pattern.encode(), re.MULTILINE).finditer
        self._rest = b""

    def feed(self, data: bytes) -> None:
        # a bar that is redrawn on one line ends, or begins, with a carriage return each time
        data = (self._rest + data).replace(b"\r", b"\n")
        cut = data.rfind(b"\n") + 1
        if cut > 2 * _FLOOD:
            # the newest part, and the oldest only if the newest has no match
            _ = self._take(data[cut - _FLOOD : cut]) or self._take(data[:_FLOOD])
        else:
            self._take(data[:cut])
        self._rest = data[cut:]
        self._take_rest()

    def _take_rest(self) -> None:
        """Take the part of an unfinished line that more output cannot change."""
        head = self._rest[:_LINE]
        head = _bare(head)
        match = _last(self._find(head))
        # a match that ends with a digit at the end may go on: 5 of 1, then 00
        self.is_unsettled = match is not None and match.end() == len(head) and head[-1:].isdigit()
        if match is not None and not self.is_unsettled:
            self.fraction = _matched(match)
        if len(self._rest) > _LINE:
            self._rest = self._rest[-_LINE:]

    def settle(self) -> None:
        self.is_unsettled = False
        self._take(self._rest[-_LINE:])

    def _take(self, text: bytes) -> bool:
        match = _last(self._find(_bare(text)))
        if match is not None:
            self.fraction = _matched(match)
        return match is not None


def _bare(text: bytes) -> bytes:
    """Return text without colours, and with plain spaces."""
    if b"\x1b" in text:
        text = _SEQUENCE.sub(b"", text)
    return text if text.isascii() else _SPACES.sub(b" ", text)


def _last(found: Iterable[re.Match[bytes]]) -> re.Match[bytes] | None:
    return next(iter(deque(found, maxlen=1)), None)


def _matched(match: re.Match[bytes]) -> float:
    try:
        groups = [group.decode() for group in match.groups() if group is not None]
        if len(groups) == 1:
            return _number(groups[0]) / 100.0
        done, whole = (_number(group) for group in groups)
        if done > whole and _POINTED.fullmatch(groups[1].strip()):
            whole = _number(groups[1].replace(".", ""))  # 500 of 2.400
        return done / whole
    except (ValueError, ZeroDivisionError):
        return 0.0


def _number(text: str) -> float:
    """Return a number with a decimal comma or point, with separated thousands, or with a unit."""
    found = _NUMBER.fullmatch(_BETWEEN.sub("", text))
    if found is None:
        raise ValueError(text)
    digits, unit, is_binary = found.groups()
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    elif digits.count(".") > 1 or "," in digits:
        digits = (digits.replace(".", "") if _POINTED.fullmatch(digits) else digits).replace(",", ".")
    base = 1_024.0 if is_binary else 1_000.0
    return float(digits) * math.pow(base, _UNITS[unit])


class _Count(Rule):
    """Counts lines or bytes of output against an expected number."""

    def __init__(self, whole: int, *, lines: bool) -> None:
        self._whole = whole
        self._lines = lines
        self._done = 0

    def feed(self, data: bytes) -> None:
        self._done += data.count(b"\n") if self._lines else len(data)
        self.fraction = self._done / self._whole


class _Reading(Rule):
    """Reads the program's position in a file from its descriptor (Linux: /proc/PID/fdinfo)."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        try:
            self._whole = os.path.getsize(path)
        except OSError:
            self._whole = 0

    def look(self, pids: Iterable[int]) -> None:
        furthest = max((_position(pid, self._path) for pid in pids), default=0)
        if self._whole:
            self.fraction = furthest / self._whole


def _position(pid: int, path: str) -> int:
    furthest = 0
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") == path:
                with open(f"/proc/{pid}/fdinfo/{descriptor}") as info:
                    furthest = max(furthest, int(info.readline().split()[1]))
    except (OSError, ValueError, IndexError):
        pass  # it has closed the file or ended meanwhile
    return furthest


def rule_from(table: Mapping[str, Any]) -> Rule:
    """Return the rule of a table with one of `pattern`, `lines`, `bytes` and `path`; of an empty one: no rule."""
    if table.get("pattern"):
        return _Pattern(table["pattern"])
    if table.get("path"):
        return _Reading(table["path"])
    if table.get("lines") or table.get("bytes"):
        return _Count(table.get("lines") or table["bytes"], lines=bool(table.get("lines")))
    return Rule()
