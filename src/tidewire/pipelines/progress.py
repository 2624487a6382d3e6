"""The progress of a program, from its output or from its position in an input. Standard library only, as `output`."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ("Rule", "rule_from")

#: Bytes of an unfinished line that are kept, and bytes of much output that are searched: the newest.
_LINE, _FLOOD = 65_536, 65_536


class Rule:
    """No rule: only the program itself may report its progress."""

    #: 0 to 1.
    fraction: float = 0.0

    def feed(self, data: bytes) -> None:
        """Take output."""

    def look(self, pids: Iterable[int]) -> None:
        """Inspect the program's processes."""


class _Pattern(Rule):
    """A regular expression on each line: one group is a percentage, two are done and of how many."""

    def __init__(self, pattern: str) -> None:
        self._find = re.compile(pattern.encode(), re.MULTILINE).finditer
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if len(data) > 2 * _FLOOD:
            data, self._rest = data[-_FLOOD:], b""
        # a bar that is drawn again and again on one line ends with a carriage return each time
        data = (self._rest + data).replace(b"\r", b"\n")
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:][-_LINE:]
        for match in deque(self._find(data[:cut]), maxlen=1):
            self.fraction = _matched(match)


def _matched(match: re.Match[bytes]) -> float:
    try:
        done, *whole = [float(group.replace(b",", b"")) for group in match.groups()]
        return done / (whole[0] if whole else 100.0)
    except (ValueError, ZeroDivisionError, AttributeError):
        return 0.0


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
