"""Tables, in Markdown, for the terminal and the docs; and the same as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.bars import Bar, Medians, connect_rate, incomplete, judge, per_connection
from bench.measure import Run, Suite
from bench.plot import Line, Plot

__all__ = ("plots", "render", "write_json")

ABOUT = """Every server ran alone on one core, the load generator (C, epoll) on the other, over loopback, in turn, in
one run; figures are medians. `make bench` writes this page.

Messages are {size} bytes. Every delivery is checked: a message that is lost, comes twice or out of order is counted,
and named at the end of this page. A message is in flight until *all* subscribers have it; latency counts from the
moment at which it was due, at every subscriber. Servers differ in how many publishing connections they like, so each is
measured with several numbers of them, and what is compared is each server's best. Where the generator was busy for more
than 90 %, a figure is a lower bound."""


def render(suite: Suite, skipped: Sequence[str]) -> str:
    """Return the page of results."""
    medians = Medians(suite.runs)
    parts = ["# Measurements", ABOUT.format(size=128), _machine(suite)]
    parts += [
        "## What must be reached",
        _table(("work", "server", "figure", "compared with", "ratio", "wanted", ""), map(_bar, judge(medians))),
    ]
    parts += _fanout_part(medians) + _latency_part(medians) + _connection_part(medians)
    for title, notes in (("Skipped", skipped), ("Failed", suite.failures), ("Incomplete", incomplete(suite.runs))):
        if notes:
            parts += [f"## {title}", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _machine(suite: Suite) -> str:
    disturbances = sorted(run.figures.disturbance for run in suite.runs) or [0.0]
    disturbed = f"{disturbances[len(disturbances) // 2]:.0%} of a core (median), at most {disturbances[-1]:.0%}"
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    text = f"Machine: {model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}."
    return f"{text} Other programs used {disturbed}, during a window."


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _bar(bar: Bar) -> tuple[str, ...]:
    verdict = {True: "reached", False: "**missed**", None: "not measured"}[bar.passed]
    reference = "" if bar.reference is None else f" {_number(bar.reference)}"
    ratio = "" if bar.ratio is None else f"{bar.ratio:.2f}"
    note = f" ({bar.note})" if bar.note else ""
    return (
        bar.work,
        bar.subject,
        f"{_number(bar.figure)} {bar.unit}{note}",
        f"{bar.against}{reference}",
        ratio,
        bar.wanted,
        verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _table(head: Sequence[str], rows: object) -> str:
    table = [tuple(head), *rows]  # type: ignore[misc]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _fanout_part(medians: Medians) -> list[str]:
    rows = []
    reference = medians.fanout("nats-server")
    for name in medians.subjects("fanout"):
        at = medians.variables("fanout", name)
        rates = [_number(medians.of("fanout", name, publishers, lambda f: f.rate)) for publishers in (1, 16, 256)]
        efficiency = max(medians.of("fanout", name, p, lambda f: f.efficiency) or 0.0 for p in at)
        server = max(medians.of("fanout", name, p, lambda f: f.server_cpu) or 0.0 for p in at)
        generator = max(medians.of("fanout", name, p, lambda f: f.generator_cpu) or 0.0 for p in at)
        bound = " (a lower bound)" if medians.is_bounded_by_generator("fanout", name) else ""
        ratio = f"{(medians.fanout(name) or 0.0) / reference:.2f}" if reference else "–"
        rows.append((name, *rates, ratio, _number(efficiency), f"{server:.0%}", f"{generator:.0%}{bound}"))
    if not rows:
        return []
    head = (
        "server",
        "1 publisher",
        "16 publishers",
        "256 publishers",
        "best × nats-server",
        "best, for each CPU second of the server",
        "server CPU",
        "generator CPU",
    )
    return [
        "## Fan-out: deliveries per second, one channel, 1,000 subscribers, 256 messages in flight",
        _table(head, rows),
    ]


def _latency_part(medians: Medians) -> list[str]:
    parts = []
    works = (
        ("paced", 100.0, "Latency: 100 messages/s to 1,000 subscribers"),
        ("rooms", 50.0, "Latency: 100 rooms of 10, 50 messages/s each"),
        ("big", None, "Latency: one big room, 4 messages/s"),
    )
    for work, variable, title in works:
        rows = []
        for name in medians.subjects(work):
            at = variable if variable is not None else medians.variables(work, name)[0]
            values = (
                lambda f: f.latency.p50_ms,
                lambda f: f.latency.p99_ms,
                lambda f: f.latency.max_ms,
                lambda f: f.last.p99_ms,
            )
            figures = [medians.of(work, name, at, value) or 0.0 for value in values]
            cpu = [
                medians.of(work, name, at, value) or 0.0
                for value in (lambda f: f.server_cpu, lambda f: f.generator_cpu)
            ]
            rows.append((name, *(f"{figure:.3f}" for figure in figures), *(f"{share:.0%}" for share in cpu)))
        if rows:
            head = ("server", "p50 ms", "p99 ms", "max ms", "last subscriber p99 ms", "server CPU", "generator CPU")
            parts += [f"## {title}", _table(head, rows)]
    return parts


def _connection_part(medians: Medians) -> list[str]:
    rows = []
    for name in dict.fromkeys([*medians.subjects("connect"), *medians.subjects("idle")]):
        rates = [medians.of("connect", name, at, connect_rate) for at in medians.variables("connect", name)]
        sizes = [medians.of("idle", name, at, per_connection) for at in medians.variables("idle", name)]
        size = f"{sizes[0] / 1024:.1f}" if sizes and sizes[0] is not None else "–"
        rows.append((name, _number(rates[0] if rates else None), size))
    return ["## Connections", _table(("server", "new per second", "KiB of each idle one"), rows)] if rows else []


def plots(runs: Sequence[Run]) -> dict[str, Plot]:
    """Return the plots by file name."""
    medians = Medians(runs)
    found: dict[str, Plot] = {}
    names = medians.subjects("subscribers")
    if names:
        lines = [
            Line(
                n,
                [
                    (v, medians.of("subscribers", n, v, lambda f: f.rate) or 0.0)
                    for v in medians.variables("subscribers", n)
                ],
            )
            for n in names
        ]
        found["fanout.svg"] = Plot(
            "Deliveries per second against subscribers", "subscribers of one channel", "deliveries/s", lines
        )
    names = medians.subjects("load")
    for quantile, value in (("p50", lambda f: f.latency.p50_ms), ("p99", lambda f: f.latency.p99_ms)) if names else ():
        lines = [
            Line(n, [(v * 1_000, medians.of("load", n, v, value) or 0.0) for v in medians.variables("load", n)])
            for n in names
        ]
        title = f"Latency ({quantile}) against load, 1,000 subscribers"
        found[f"latency-{quantile}.svg"] = Plot(title, "deliveries asked for per second", "ms", lines)
    return found


def write_json(path: Path, suite: Suite, skipped: Sequence[str]) -> None:
    """Write everything that was measured, and the verdicts."""
    page = {
        "plan": suite.plan,
        "bars": judge(Medians(suite.runs)),
        "skipped": list(skipped),
        "failures": suite.failures,
        "incomplete": incomplete(suite.runs),
        "runs": suite.runs,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(page)) + b"\n")
