"""Two workers with 500 subscribers each in one channel, beside one worker on memory, and python-socketio with Redis.

`python -m bench.stores.workers redis://…`: prints a line of JSON. All workers share one core, and the generator has the
other with the store: what is compared are deliveries for each second of a worker's own CPU time, which is what a worker
with a core of its own delivers each second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

import msgspec

from bench.load import Figures, compile_generator, run_generator
from bench.processes import free_port, running
from bench.subjects import uvicorn

__all__ = ("Compared", "compare")

SUBSCRIBERS, REPETITIONS = 500, 3
PATH = "/served/{room}"


class Compared(msgspec.Struct, frozen=True):
    """Deliveries per second of a worker's CPU time, and what came each second of the clock."""

    single: float
    single_rate: float
    each_of_two: float
    two_rate: float
    socketio_rate: float
    complete: bool


def _run(port: int, pids: tuple[int, ...], subscribers: int, publishers: int, **more: object) -> Figures:
    options = {"mode": "fanout", "subscribers": subscribers, "publishers": publishers, "warmup": 0.7, "window": 2.0}
    words = {"port": port, "path": PATH, "pids": ",".join(map(str, pids)), **options, **more}
    return run_generator(words)


def _ours(url: str, workers: int, subscribers: int) -> Figures:
    """Return the best of our server's figures with few and with many publishers."""
    port = free_port()
    command = [sys.executable, "-m", "tidewire", "run", "bench.apps.ours:app", "--port", str(port)]
    if workers > 1:
        command += ["--workers", str(workers)]
    ready = f"{workers} workers" if workers > 1 else ""
    with running("ours-workers", port, command, {"BENCH_URL": url}, has_master=workers > 1, ready=ready) as server:
        found = [_run(port, server.pids, subscribers, publishers) for publishers in (16, 256)]
    return max(found, key=lambda figures: figures.efficiency)


def _socketio(url: str) -> Figures:
    port = free_port()
    command = uvicorn("bench.peers.socketio_app:app", port, 25, "--workers", "2")
    environment: Mapping[str, str] = {"BENCH_REDIS": url}
    path = "/socket.io/?EIO=4&transport=websocket&room={room}"
    with running("socketio-workers", port, command, environment, has_master=True) as server:
        return _run(port, server.pids, 2 * SUBSCRIBERS, 1, path=path, dialect="socketio")


def _median(figures: list[Figures], key: str) -> float:
    values: list[float] = sorted(getattr(one, key) for one in figures)
    return values[len(values) // 2]


def compare(url: str) -> Compared:
    """Measure all, in turns."""
    compile_generator()
    single, two, socketio = list[Figures](), list[Figures](), list[Figures]()
    for _ in range(REPETITIONS):
        single.append(_ours("memory://", 1, SUBSCRIBERS))
        two.append(_ours(url, 2, 2 * SUBSCRIBERS))
        socketio.append(_socketio(url))
    return Compared(
        _median(single, "efficiency"),
        _median(single, "rate"),
        _median(two, "efficiency"),
        _median(two, "rate"),
        _median(socketio, "rate"),
        all(figures.in_order for figures in two),
    )


def main() -> None:
    """Compare on the Redis of a URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    print(msgspec.json.encode(compare(parser.parse_args().url)).decode())


if __name__ == "__main__":
    main()
