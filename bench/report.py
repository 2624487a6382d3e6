"""Tables, in Markdown, for the terminal and the docs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.bars import (
    Bar,
    Medians,
    connect_rate,
    cpu_each,
    incomplete,
    judge,
    messages,
    only,
    p50,
    p99,
    per_connection,
)
from bench.measure import Run
from bench.plot import Line, Plot
from bench.results import Results, Stamp
from bench.subjects import FEW

__all__ = ("plots", "render")

ABOUT = """The servers ran on one core, the load generator (C, epoll) on the other, over loopback, in one run. One
server was under load at a time, and each took its turn in every work; figures are medians. `make bench` writes this
page.

Messages are {size} bytes. Every delivery is checked: a message that is lost, comes twice or out of order is counted,
and named at the end of this page. A message is in flight until *all* subscribers have it; latency counts from the
moment at which it was due, at every subscriber. Servers differ in how many publishing connections they like, so each is
measured with several numbers of them, and what is compared is each server's best. Where the generator was busy for more
than 90 %, a figure is a lower bound."""


def render(results: Results) -> str:
    """Return the page of results."""
    medians = Medians(results.runs)
    parts = ["# Measurements", ABOUT.format(size=128), f"Machine: {results.machine}. {_disturbance(results)}"]
    parts += [_stamps(results), "## What must be reached"]
    parts += [_table(("work", "server", "figure", "compared with", "ratio", "wanted", ""), map(_bar, judge(medians)))]
    parts += _message_part(medians) + _connection_part(medians) + _fanout_part(medians) + _latency_part(medians)
    for title, notes in (("Left out", results.notes), ("Incomplete", incomplete(results.runs))):
        if notes:
            parts += [f"## {title}", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _disturbance(results: Results) -> str:
    shares = sorted(run.figures.disturbance for run in results.runs) or [0.0]
    middle = f"{shares[len(shares) // 2]:.0%} of a core (median), at most {shares[-1]:.0%}"
    return f"Other programs used {middle}, during a window."


def _stamps(results: Results) -> str:
    """Say which works are of which commit."""
    works = defaultdict[Stamp, list[str]](list)
    for work, stamp in results.works.items():
        works[stamp].append(work)
    lines = [f"- {stamp.date}, commit {stamp.commit}: {', '.join(names)}" for stamp, names in works.items()]
    return "\n".join(["Measured:", "", *lines])


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


def _message_part(medians: Medians) -> list[str]:
    echo = [
        (name, *(_number(medians.of("echo", name, window, messages)) for window in (1, 64)))
        for name in medians.subjects("echo")
    ]
    few = [
        (name, *(_number(medians.of("few", name, count, messages)) for count in FEW))
        for name in medians.subjects("few")
    ]
    low = [(name, _number(medians.of("low", name, 500, cpu_each))) for name in medians.subjects("low")]
    tables = (
        ("Echo: messages per second, one client", ("server", "1 under way", "64 under way"), echo),
        (
            "Publishes per second from one connection, 64 under way",
            ("server", *(f"{count:,} subscribers" for count in FEW)),
            few,
        ),
        ("CPU for each message, one client, 500 messages/s", ("server", "µs of the server"), low),
    )
    return [part for title, head, rows in tables if rows for part in (f"## {title}", _table(head, rows))]


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
        rate = only(medians, "connect", name, connect_rate)
        alone = [only(medians, "arrive", name, value) for value in (p50, p99)]
        size = only(medians, "idle", name, per_connection)
        rows.append((name, *map(_number, (rate, *alone, None if size is None else size / 1024))))
    head = ("server", "new per second, 64 at once", "one after another, p50 ms", "p99 ms", "KiB of each idle one")
    parts = ["## Connections", _table(head, rows)] if rows else []
    members = [
        (
            name,
            _number(only(medians, "members", name, lambda f: (f.connections - 1) / f.connect_seconds)),
            _number(medians.extra("members", name, medians.variables("members", name)[0], "leave_seconds")),
        )
        for name in medians.subjects("members")
    ]
    if members:
        title = "## A room in which everybody is told of everybody: 300 join, and leave at once"
        parts += [title, _table(("server", "joins per second", "seconds until all is told"), members)]
    return parts


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
