"""The stored results, `docs/bench/results.json`: the medians of each work, with the commit and the day they are of."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, median_low
from typing import Any

import msgspec

from bench.bars import Medians, judge
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


class _Beside(msgspec.Struct, frozen=True):
    """A row that has a peer: our figure, the peer's, and whether less is better."""

    name: str
    work: str
    peer: str
    figure: float
    reference: float
    is_less_better: bool

    @property
    def ratio(self) -> float:
        return self.figure / self.reference

    def times_worse(self, now: float, then: float) -> float:
        return now / then if self.is_less_better else then / now


def regressions(stored: Results, measured: Sequence[Run]) -> list[str]:
    """Return which ratios to a peer are worse than the stored ones by more than the tolerance.

    A peer has good and bad runs of its own. So a ratio counts only if our figure has become worse beside most peers of
    the work, and the ratio is worse in every repetition.
    """
    before, after = _beside_peers(stored.runs), _beside_peers(measured)
    turns = [_beside_peers(turn) for turn in _repetitions(measured)]
    found = []
    for key, row in after.items():
        old = before.get(key)
        if old is None:
            continue
        change = row.figure / old.figure
        peers = {
            other.peer: row.times_worse(change, other.reference / before[name].reference)
            for name, other in after.items()
            if other.work == row.work and name in before
        }
        in_turns = [row.times_worse(turn[key].ratio, old.ratio) for turn in turns if key in turn]
        if min(peers[row.peer], median_low(peers.values())) > 1 + TOLERANCE and min(in_turns) > 1:
            found.append(f"{row.name}: {row.ratio:.2f} × {row.peer}, stored {old.ratio:.2f} ×")
    return found


def _beside_peers(runs: Iterable[Run]) -> dict[tuple[str, str], _Beside]:
    """Return the rows that have a peer's figure, by name and peer."""
    rows = {}
    for bar in judge(Medians(runs)):
        if bar.figure and bar.reference and not bar.against.startswith(("limit", "none", "ours")):
            name, is_less_better = f"{bar.work}, {bar.subject}", bar.wanted.startswith("≤")
            rows[name, bar.against] = _Beside(name, bar.work, bar.against, bar.figure, bar.reference, is_less_better)
    return rows


def _repetitions(runs: Iterable[Run]) -> list[list[Run]]:
    """Split runs into the turns that the servers took."""
    seen: Counter[tuple[str, str, float]] = Counter()
    turns: defaultdict[int, list[Run]] = defaultdict(list)
    for run in runs:
        key = run.work, run.subject, run.variable
        turns[seen[key]].append(run)
        seen[key] += 1
    return list(turns.values())


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
