"""The stored results, `docs/bench/results.json`: the medians of each work, with the commit and the day they are of."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.bars import Bar, Medians, judge
from bench.load import Figures
from bench.measure import Run

__all__ = ("Results", "Stamp", "condense", "regressions")

#: A ratio to a peer that is worse than the stored one by more than this fails the run.
TOLERANCE = 0.1


class Stamp(msgspec.Struct, frozen=True):
    """When a work was measured, and on which commit."""

    commit: str
    date: str

    @classmethod
    def now(cls) -> Stamp:
        """Return the stamp of this tree; a `+` says that it has changes of its own."""
        commit = _git("rev-parse", "--short=7", "HEAD") or "unknown"
        changes = "+" if _git("status", "--porcelain", "--untracked-files=no", "--", "src") else ""
        return cls(commit + changes, f"{datetime.now(UTC):%Y-%m-%d}")


class Results(msgspec.Struct, frozen=True):
    """What was measured last of every work."""

    machine: str = ""
    works: dict[str, Stamp] = {}
    runs: list[Run] = []
    notes: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return the stored results, or empty ones."""
        return msgspec.json.decode(path.read_bytes(), type=cls) if path.exists() else cls()

    def write(self, path: Path) -> None:
        """Store them, a run on each line."""
        encode = msgspec.json.encode
        runs = b",\n    ".join(map(encode, self.runs))
        machine, works, notes = (encode(part) for part in (self.machine, self.works, self.notes))
        path.write_bytes(
            b'{\n  "machine": %s,\n  "works": %s,\n  "notes": %s,\n  "runs": [\n    %s\n  ]\n}\n'
            % (machine, works, notes, runs)
        )

    def renewed(self, runs: Sequence[Run], notes: Sequence[str], stamp: Stamp) -> Results:
        """Return these results with the works of some runs in place of what was stored of them."""
        measured = dict.fromkeys(run.work for run in runs)
        kept = [run for run in self.runs if run.work not in measured]
        works = {**self.works, **dict.fromkeys(measured, stamp)}
        return Results(machine(), works, [*kept, *condense(runs)], list(notes))


def condense(runs: Iterable[Run]) -> list[Run]:
    """Return one run for each work, server and variable, whose figures are the medians."""
    groups: defaultdict[tuple[str, str, float], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.work, run.subject, run.variable].append(run)
    return [Run(*key, _figures(group), _extra(group)) for key, group in groups.items()]


def _figures(group: Sequence[Run]) -> Figures:
    values = [msgspec.to_builtins(run.figures) for run in group]
    return msgspec.convert(_medians(values), Figures, strict=False)


def _medians(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _medians([one[name] for one in values])
        if isinstance(value, dict)
        else _rounded(median(one[name] for one in values), whole=isinstance(value, int))
        for name, value in values[0].items()
    }


def _rounded(value: float, *, whole: bool) -> float:
    return round(value) if whole else round(value, 4)


def _extra(group: Sequence[Run]) -> dict[str, float]:
    names = dict.fromkeys(name for run in group for name in run.extra)
    return {name: median(run.extra[name] for run in group if name in run.extra) for name in names}


def regressions(stored: Results, measured: Sequence[Run]) -> list[str]:
    """Return which ratios to a peer are worse than the stored ones by more than the tolerance."""
    before = {_key(bar): bar for bar in judge(Medians(stored.runs))}
    found = []
    for bar in judge(Medians(measured)):
        old = before.get(_key(bar))
        if old is None or old.ratio is None or bar.ratio is None or bar.against.startswith(("limit", "none", "ours")):
            continue
        worse = bar.ratio / old.ratio if bar.wanted.startswith("≤") else old.ratio / bar.ratio
        if worse > 1 + TOLERANCE:
            found.append(f"{bar.work}, {bar.subject}: {bar.ratio:.2f} × {bar.against}, stored {old.ratio:.2f} ×")
    return found


def _key(bar: Bar) -> tuple[str, str, str]:
    return bar.work, bar.subject, bar.against


def machine() -> str:
    """Return what the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    return done.stdout.strip()
