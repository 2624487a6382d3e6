"""One connection publishes 100 messages a second to 1,000 subscribers: `python -m bench.stores.paced URL`.

Prints a line of JSON: an endpoint and a client of the Centrifuge protocol, on the store and beside it on memory.
"""

from __future__ import annotations

import argparse

import msgspec

from bench.load import Figures, compile_generator, run_generator
from bench.ours import run
from bench.processes import free_port, running

__all__ = ("Paced",)

KINDS = {"endpoint": ("/endpoint/{room}", "plain"), "json": ("/connection/websocket", "centrifuge-json")}


class Paced(msgspec.Struct, frozen=True):
    """Latencies in milliseconds; `complete` says that all came within two seconds of the last publish."""

    kind: str
    p50: float
    p99: float
    memory_p50: float
    memory_p99: float
    complete: bool


def _measure(kind: str, url: str, window: float) -> Figures:
    (path, dialect), port = KINDS[kind], free_port()
    with running(f"paced-{kind}", port, run("bench.apps.ours:app", port, 25), {"BENCH_URL": url}) as server:
        pids = ",".join(map(str, server.pids))
        load = {"mode": "paced", "rate": 100, "subscribers": 1_000, "publishers": 1, "window": window, "drain": 2}
        return run_generator({"port": port, "path": path, "dialect": dialect, "pids": pids, **load})


def main() -> None:
    """Measure on the store of a URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--window", type=float, default=5.0)
    given = parser.parse_args()
    compile_generator()
    found = []
    for kind in KINDS:
        memory, store = (_measure(kind, url, given.window) for url in ("memory://", given.url))
        times = [figure for one in (store, memory) for figure in (one.latency.p50_ms, one.latency.p99_ms)]
        found.append(Paced(kind, *times, store.complete))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
