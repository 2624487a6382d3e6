"""200 cursors move 30 times a second in ten rooms over two workers: `python -m bench.stores.cursors sqlite:///…`.

Prints a line of JSON: the same moves as publications that nobody keeps, and beside them as kept ones.
"""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing

import msgspec

from bench.load import Figures, compile_generator, run_generator
from bench.ours import run
from bench.processes import free_port, running

__all__ = ("Cursors",)

ROOMS, CURSORS, MOVES = 10, 20, 30.0
#: The application keeps nothing in rooms whose names begin with `cursors:`.
PATHS = {"kept": "/endpoint/{room}", "ephemeral": "/endpoint/cursors:{room}"}


class Cursors(msgspec.Struct, frozen=True):
    """Microseconds of both workers' CPU time for each delivery; milliseconds; rows that the moves left in the file."""

    cpu: float
    kept_cpu: float
    p99: float
    kept_p99: float
    rows: int
    complete: bool


def _measure(kind: str, url: str, window: float) -> tuple[Figures, int]:
    port, before = free_port(), _rows(url)
    command = [*run("bench.apps.ours:app", port, 25), "--workers", "2"]
    with running(f"cursors-{kind}", port, command, {"BENCH_URL": url}, has_master=True, ready="2 workers") as server:
        pids = ",".join(map(str, server.pids))
        load = {"mode": "paced", "rooms": ROOMS, "subscribers": CURSORS, "publishers": CURSORS, "rate": CURSORS * MOVES}
        figures = run_generator({"port": port, "path": PATHS[kind], "pids": pids, "window": window, "drain": 2, **load})
    return figures, _rows(url) - before


def _rows(url: str) -> int:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        try:
            return int(database.execute("SELECT count(*) FROM tidewire_publications").fetchone()[0])
        except sqlite3.OperationalError:  # the first worker makes the table
            return 0


def _cpu(figures: Figures) -> float:
    return 1e6 / figures.efficiency if figures.efficiency else 0.0


def main() -> None:
    """Measure on the file of a URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--window", type=float, default=5.0)
    given = parser.parse_args()
    compile_generator()
    (ephemeral, rows), (kept, _) = (_measure(kind, given.url, given.window) for kind in ("ephemeral", "kept"))
    times = (ephemeral.latency.p99_ms, kept.latency.p99_ms)
    found = Cursors(_cpu(ephemeral), _cpu(kept), *times, rows, ephemeral.complete)
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
