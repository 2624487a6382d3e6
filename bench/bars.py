"""What the figures must reach, row by row, and whether they do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median

import msgspec

from bench.load import Figures
from bench.measure import Run
from bench.observed import LOOKS, OBSERVED

__all__ = ("Bar", "Medians", "judge")

KIB = 1024
OUTBOX_BYTES = 1_048_576
#: uvicorn with each of its WebSocket classes.
UVICORN = ("uvicorn-bare", "uvicorn-wsproto", "uvicorn-websockets", "uvicorn-fastapi")


class Bar(msgspec.Struct, frozen=True):
    """One row: our figure, what it is compared with, the ratio wanted; `passed` is None when a part is missing."""

    work: str
    subject: str
    figure: float | None
    unit: str
    against: str
    reference: float | None
    ratio: float | None
    wanted: str
    passed: bool | None
    note: str = ""


class Medians:
    """The median over the repetitions, by work, server and variable."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: defaultdict[tuple[str, str, float], list[Run]] = defaultdict(list)
        for run in runs:
            self._runs[run.work, run.subject, run.variable].append(run)

    def of(self, work: str, subject: str, variable: float, figure: Callable[[Figures], float]) -> float | None:
        """Return the median of a figure, or None when it was not measured."""
        runs = self._runs.get((work, subject, variable))
        return median(figure(run.figures) for run in runs) if runs else None

    def variables(self, work: str, subject: str) -> list[float]:
        """Return the variables at which a work was measured on a server."""
        return sorted(variable for name, who, variable in self._runs if (name, who) == (work, subject))

    def subjects(self, work: str) -> list[str]:
        """Return the servers on which a work was measured, in the order of the runs."""
        return list(dict.fromkeys(subject for name, subject, _ in self._runs if name == work))

    def extra(self, work: str, subject: str, variable: float, name: str) -> float | None:
        """Return the median of what was measured beside the generator's figures."""
        values = [run.extra[name] for run in self._runs.get((work, subject, variable), ()) if name in run.extra]
        return median(values) if values else None

    def fanout(self, subject: str) -> float | None:
        """Return the deliveries per second with the number of publishers at which this server is fastest."""
        rates = [
            self.of("fanout", subject, variable, lambda f: f.rate) for variable in self.variables("fanout", subject)
        ]
        return max((rate for rate in rates if rate is not None), default=None)

    def is_bounded_by_generator(self, work: str, subject: str) -> bool:
        """The generator was busy for more than 90 % of the time, so that the figure is a lower bound."""
        return any(
            (self.of(work, subject, v, lambda f: f.generator_cpu) or 0) > 0.9 for v in self.variables(work, subject)
        )


def judge(medians: Medians) -> list[Bar]:
    """Return every row that must be reached."""
    small = [*_echo(medians), *_few(medians), *_newcomers(medians)]
    return [
        *small,
        *_observed(medians),
        *_fanout(medians),
        *_latency(medians),
        *_memory(medians),
        *_frozen(medians),
        *_big(medians),
    ]


def _bar(
    work: str,
    subject: str,
    unit: str,
    figure: float | None,
    against: str,
    reference: float | None,
    factor: float,
    *,
    at_most: bool,
) -> Bar:
    ratio = figure / reference if figure is not None and reference else None
    passed = None if ratio is None else (ratio <= factor if at_most else ratio >= factor)
    wanted = f"{'≤' if at_most else '≥'} {factor:g} ×"
    return Bar(work, subject, figure, unit, against, reference, ratio, wanted, passed)


_at_least = partial(_bar, at_most=False)
_at_most = partial(_bar, at_most=True)


def _observed(medians: Medians) -> list[Bar]:
    """The CPU time of a message, with and without somebody who looks."""
    off = "ours-observed-off"
    rows = []
    for look, factor in LOOKS.items():
        subject = f"ours-observed-{look}"
        for count in OBSERVED:
            figure, reference = (medians.of("observed", one, count, _cpu_us) for one in (subject, off))
            work = f"{look} on, publishes to {count}"
            rows.append(_at_most(work, subject, "µs CPU/message", figure, off, reference, factor))
    return rows


def _cpu_us(figures: Figures) -> float:
    return figures.server_cpu * figures.seconds / max(1, figures.completed) * 1e6


def _fanout(medians: Medians) -> list[Bar]:
    rows = [
        ("ours-served-memory", (("nats-server", 1.5), ("nchan", 8), ("node-ws", 25), ("tutorial", 40))),
        ("ours-served-sqlite", (("nats-server", 1),)),
        ("ours-endpoint-memory", (("nats-server", 1),)),
        ("ours-json-memory", (("nats-server", 1.5),)),
        ("ours-protobuf-memory", (("nats-server", 1.5), ("ours-json-memory", 1))),
    ]
    return [
        _at_least("fan-out", ours, "deliveries/s", medians.fanout(ours), peer, medians.fanout(peer), factor)
        for ours, wanted in rows
        for peer, factor in wanted
    ]


def p50(figures: Figures) -> float:
    """The median latency, in milliseconds."""
    return figures.latency.p50_ms


def p99(figures: Figures) -> float:
    """The latency that one in a hundred exceeds, in milliseconds."""
    return figures.latency.p99_ms


def _latency(medians: Medians) -> list[Bar]:
    peers = {name: medians.of("paced", name, 100, p99) for name in ("nats-server", "nchan")}
    known = {name: value for name, value in peers.items() if value is not None}
    best = min(known, key=lambda name: known[name]) if known else "nats-server or nchan"
    rows = []
    for ours in ("ours-served-memory", "ours-endpoint-memory"):
        rows.append(
            _at_most("paced, 100/s", ours, "ms p99", medians.of("paced", ours, 100, p99), best, known.get(best), 1.25)
        )
    for ours in ("ours-served-memory", "ours-endpoint-memory"):
        nats = medians.of("rooms", "nats-server", 50, p99)
        rows.append(_at_most("100 rooms", ours, "ms p99", medians.of("rooms", ours, 50, p99), "nats-server", nats, 1.5))
    return rows


def per_connection(figures: Figures) -> float:
    """Bytes of resident memory for each connection that came after the first hundred."""
    return (figures.rss_end - figures.rss_warm) / (figures.connections - 100)


def messages(figures: Figures) -> float:
    """Messages per second that all subscribers have."""
    return figures.completed / figures.seconds


def cpu_each(figures: Figures) -> float:
    """Microseconds of the server's CPU time for each message that was published."""
    return figures.server_cpu * figures.seconds / figures.published * 1e6 if figures.published else 0.0


def connect_rate(figures: Figures) -> float:
    """New connections per second."""
    return (figures.connections - 100) / figures.connect_seconds


def _echo(medians: Medians) -> list[Bar]:
    rows = []
    for ours, factors in (("ours-bare", (1.2, 1.4)), ("ours-ready-ws", (1.1, 1.2))):
        for window, factor in zip((1, 64), factors, strict=True):
            best = _best(medians, "echo", window, UVICORN)
            figure, reference = (medians.of("echo", name, window, messages) for name in (ours, best))
            rows.append(_at_least(f"echo, window {window}", ours, "messages/s", figure, best, reference, factor))
    return rows


def _best(medians: Medians, work: str, variable: float, names: Sequence[str]) -> str:
    """Return which of these servers is the fastest."""
    return max(names, key=lambda name: medians.of(work, name, variable, messages) or 0.0)


def _few(medians: Medians) -> list[Bar]:
    rows = []
    wanted: dict[str, dict[str, tuple[float | None, ...]]] = {
        "ours-endpoint-memory": {"go-centrifuge": (1.2, 2, 4), "socketify": (None, 1, 1, 1)},
        "ours-json-memory": {"go-centrifuge": (1, 1.5, 3)},
        "ours-endpoint-sqlite": {"ours-endpoint-memory": (None, 0.6, 0.6, 0.6)},
        "ours-json-sqlite": {"ours-json-memory": (None, 0.6, 0.6, 0.6)},
    }
    for ours, peers in wanted.items():
        for peer, factors in peers.items():
            for count, factor in zip((2, 10, 100, 1_000), factors, strict=False):
                if factor is not None:
                    figure, reference = (medians.of("few", name, count, messages) for name in (ours, peer))
                    work = f"publishes to {count:,}"
                    rows.append(_at_least(work, ours, "messages/s", figure, peer, reference, factor))
    return rows


def _newcomers(medians: Medians) -> list[Bar]:
    rows = []
    many = (
        *((f"ours-{kind}-memory", "uvicorn-fastapi", 3) for kind in ("served", "json", "protobuf")),
        ("ours-ready-json", "uvicorn-fastapi", 3),
        ("ours-endpoint-memory", "uvicorn-fastapi", 2),
        ("ours-bare", "uvicorn-fastapi", 1.2),
        ("ours-served-memory", "node-ws", 1),
    )
    for ours, peer, factor in many:
        figure, reference = (only(medians, "connect", name, connect_rate) for name in (ours, peer))
        rows.append(_at_least("connects, 64 at once", ours, "new/s", figure, peer, reference, factor))
    for ours, factor in (("ours-bare", 0.6), ("ours-ready-ws", 0.9), ("ours-json-memory", 0.9)):
        figure, reference = (only(medians, "arrive", name, p50) for name in (ours, "uvicorn-fastapi"))
        rows.append(_at_most("one connect after another", ours, "ms p50", figure, "uvicorn-fastapi", reference, factor))
    return rows


def only(medians: Medians, work: str, subject: str, figure: Callable[[Figures], float]) -> float | None:
    """Return the median of a work that was measured at one variable."""
    variables = medians.variables(work, subject)
    return medians.of(work, subject, variables[0], figure) if variables else None


def _memory(medians: Medians) -> list[Bar]:
    rows = []
    for ours, limit in (("ours-served-memory", 10), ("ours-endpoint-memory", 16)):
        figure = only(medians, "idle", ours, per_connection)
        rows.append(_limited("idle memory", ours, "KiB each", None if figure is None else figure / KIB, limit))
    return rows


def _limited(work: str, subject: str, unit: str, figure: float | None, limit: float, note: str = "") -> Bar:
    ratio = None if figure is None else figure / limit
    return Bar(
        work, subject, figure, unit, "limit", limit, ratio, f"≤ {limit:g}", None if ratio is None else ratio <= 1, note
    )


def _frozen(medians: Medians) -> list[Bar]:
    rows = []
    for ours in ("ours-served-memory", "ours-endpoint-memory"):
        without, frozen = (medians.of("frozen", ours, variable, lambda f: f.rate) for variable in (0, 10))
        rows.append(_at_least("10 of 1,000 frozen", ours, "deliveries/s", frozen, "none frozen", without, 0.95))
        growth = medians.extra("frozen", ours, 10, "growth")
        rows.append(
            _limited(
                "frozen memory growth",
                ours,
                "MiB",
                None if growth is None else growth / KIB**2,
                10 * OUTBOX_BYTES / KIB**2,
            )
        )
    return rows


def _big(medians: Medians) -> list[Bar]:
    rows = []
    for ours in ("ours-served-memory", "ours-endpoint-memory"):
        for variable in medians.variables("big", ours) or [0]:
            cpu = medians.extra("big", ours, variable, "worst_turn_cpu")
            wall = medians.extra("big", ours, variable, "worst_turn_wall")
            note = "" if wall is None else f"wall {wall * 1e3:.2f} ms"
            rows.append(_limited("worst turn, big room", ours, "ms CPU", None if cpu is None else cpu * 1e3, 10, note))
    return rows


def incomplete(runs: Sequence[Run]) -> list[str]:
    """Return the runs in which something was lost, reordered or cut off.

    What has not come in time is told for the works of the table; in the curves a server is overloaded on purpose.
    """
    curves = ("load", "subscribers")
    return [
        f"{run.work} on {run.subject} at {run.variable:g}: lost {run.figures.lost}, late {run.figures.missing}, "
        f"reordered {run.figures.reordered}, disconnected {run.figures.disconnected}, skipped {run.figures.skipped}"
        for run in runs
        if not run.figures.in_order or (run.figures.missing and run.work not in curves)
    ]
