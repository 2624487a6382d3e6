"""`python -m bench.stores`: what each store can do, beside its own limit; prints the table and writes it into docs/."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.stores import publishing
from bench.stores.cursors import Cursors
from bench.stores.delivery import Waits
from bench.stores.nodes import Cost
from bench.stores.paced import Paced
from bench.stores.recovery import Jitter, Storm
from bench.stores.servers import STORES, missing, serving
from bench.stores.workers import Compared

T = TypeVar("T")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bench"
WORKS = ("publish", "delivery", "paced", "cursors", "nodes", "workers", "storm", "jitter")
ABOUT = """Servers of the stores as Debian has them, on the machine that also runs ours and the clients. `make bench`
writes this page. Publishes are 128 bytes from 100 tasks of one node, each acknowledged before its task sends the next;
Redis runs with `appendfsync everysec`, the others as they are installed. Delivery is the time from a publish on one
node to the write on another process at 1,000 messages a second, beside the store's own round trip: keep, notify, hear
of it."""


class Row(msgspec.Struct, frozen=True):
    """One thing that must be reached, or (with `passed` None) is only told."""

    work: str
    store: str
    figure: str
    against: str
    wanted: str
    passed: bool | None


def run(module: str, kind: type[T], *arguments: str) -> T:
    """Run one measurement in a process of its own, and return what it says."""
    command = [sys.executable, "-m", f"bench.stores.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2_000:] or f"{module} ended with code {done.returncode}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=kind)


def publish(name: str, url: str) -> Iterator[Row]:
    """Acknowledged publishes."""
    rates = publishing.measure(url)
    least, wanted = {
        "redis": (40_000.0, "≥ 40,000/s"),
        "nats": (10_000.0, "≥ 10,000/s"),
        "postgres": (10 * rates.limit, "≥ 10 × pgbench"),
    }.get(name, (10_000.0, "≥ 10,000/s"))
    against = f"{rates.limit:,.0f}/s ({rates.what}): {rates.one_channel / rates.limit:.1f} ×"
    yield Row("publishes", name, f"{rates.one_channel:,.0f}/s", against, wanted, rates.one_channel >= least)
    yield Row("publishes in 100 channels", name, f"{rates.many_channels:,.0f}/s", "", "", None)


def delivery(name: str, url: str) -> Iterator[Row]:
    """From one node to another."""
    waits = run("delivery", dict[str, Waits], url)
    ours, alone = waits["ours"], waits["alone"]
    for part, factor in (("p50", 3), ("p99", 5)):
        mine, own = getattr(ours, part), getattr(alone, part)
        figure, against = f"{mine:.2f} ms {part}", f"{own:.2f} ms: {mine / own:.1f} ×"
        yield Row("delivery", name, figure, against, f"≤ {factor} ×", mine <= factor * own)


def paced(name: str, url: str) -> Iterator[Row]:
    """One publisher, 100 messages a second to 1,000 subscribers, beside the same on memory."""
    for found in run("paced", list[Paced], url):
        work = f"one publisher, {found.kind}"
        for part, factor in (("p50", 1.5), ("p99", 2)):
            mine, memory = getattr(found, part), getattr(found, f"memory_{part}")
            figure, against = f"{mine:.1f} ms {part}", f"memory {memory:.1f} ms: {mine / memory:.1f} ×"
            yield Row(work, name, figure, against, f"≤ {factor:g} ×", found.complete and mine <= factor * memory)


def cursors(name: str, url: str) -> Iterator[Row]:
    """200 cursors in ten rooms over two workers, beside the same moves kept."""
    if name != "sqlite":
        return
    found = run("cursors", Cursors, url)
    share, figure = found.cpu / found.kept_cpu, f"{found.cpu:.1f} µs of CPU a delivery"
    yield Row(
        "cursors that nobody keeps", name, figure, f"kept {found.kept_cpu:.1f}: {share:.0%}", "≤ 33 %", share <= 1 / 3
    )
    figure, against = f"{found.p99:.1f} ms p99", f"kept {found.kept_p99:.1f} ms; {found.rows} rows"
    is_reached = found.complete and found.p99 < 50 and not found.rows
    yield Row("cursors that nobody keeps", name, figure, against, "< 50 ms, 0 rows", is_reached)


def nodes(name: str, url: str) -> Iterator[Row]:
    """What one of five nodes costs, and one of fifty."""
    few, *_, many = run("nodes", list[Cost], url)
    for state in ("idle", "busy"):
        mine, beside = getattr(many, f"{state}_cpu"), getattr(few, f"{state}_cpu")
        figure, against = f"{mine:.2f} ms of CPU a second", f"one of {few.nodes}: {beside:.2f}: {mine / beside:.1f} ×"
        work = f"{state} node of {many.nodes}"
        yield Row(work, name, figure, against, "≤ 2 ×", many.delivered and mine <= 2 * beside)
        done = getattr(many, f"{state}_operations")
        if done >= 0:
            was = getattr(few, f"{state}_operations")
            against = f"one of {few.nodes}: {was:.1f}"
            yield Row(work, name, f"{done:.1f} operations a second", against, "≤ 2 ×", done <= 2 * was)


def workers(name: str, url: str) -> Iterator[Row]:
    """Two workers with 500 subscribers each."""
    if name != "redis":
        return
    found = run("workers", Compared, url)
    share = found.each_of_two / found.single
    figure, against = f"{found.each_of_two:,.0f}/s of CPU time", f"one on memory {found.single:,.0f}: {share:.0%}"
    yield Row("each of two workers", name, figure, against, "≥ 60 %", share >= 0.6 and found.complete)
    times = found.two_rate / found.socketio_rate
    against = f"python-socketio {found.socketio_rate:,.0f}/s: {times:,.0f} ×"
    yield Row("two workers together", name, f"{found.two_rate:,.0f}/s", against, "≥ 5 ×", times >= 5)


def storm(name: str, url: str) -> Iterator[Row]:
    """2,000 clients return at once, three times, in turns with as many without admission; the middle one counts."""
    storms, unadmitted = list[Storm](), list[Storm]()
    for _ in range(3):
        storms.append(run("recovery", Storm, "storm", url))
        unadmitted.append(run("recovery", Storm, "storm", url, "--unadmitted"))
    found = sorted(storms, key=lambda storm: storm.storm_p99 / storm.calm_p99)[1]
    figure = f"{found.recovered:,} of {found.clients:,} exact in {found.seconds:.1f} s"
    yield Row("2,000 return at once", name, figure, "", "all, exact", all(storm.exact for storm in storms))
    figure, against = f"{found.storm_p99:.1f} ms p99", f"before: {found.calm_p99:.1f} ms"
    yield Row("those who never left", name, figure, against, "≤ 2 ×", found.storm_p99 <= 2 * found.calm_p99)
    mine, beside = (sorted(storm.seconds for storm in each)[1] for each in (storms, unadmitted))
    worst = sorted(storm.storm_p99 for storm in unadmitted)[1]
    against = f"without admission {beside:.2f} s, {worst:.0f} ms p99"
    yield Row("all back", name, f"{mine:.2f} s", against, "≤ 1 ×", mine <= beside)


def jitter(name: str, url: str) -> Iterator[Row]:
    """Clients drop again and again."""
    found = run("recovery", Jitter, "jitter", url)
    is_whole = found.delivered == 1.0 and not (found.lost or found.twice or found.told)
    figure = f"{found.delivered:.2%} of {found.messages} to {found.clients:,}"
    yield Row("jitter", name, figure, f"{found.drops:,} drops", "100.00 %", is_whole)


MEASURES: dict[str, Callable[[str, str], Iterator[Row]]] = {
    "publish": publish,
    "delivery": delivery,
    "paced": paced,
    "cursors": cursors,
    "nodes": nodes,
    "workers": workers,
    "storm": storm,
    "jitter": jitter,
}


def measure(name: str, works: list[str]) -> Iterator[Row]:
    """Run what was asked for on one store, each on a fresh server."""
    for work in works:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, serving(name, Path(folder)) as url:
            try:
                yield from MEASURES[work](name, url)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{work} on {name} failed: {error}", file=sys.stderr, flush=True)
                yield Row(work, name, "failed", "", "", False)


def table(rows: list[Row], skipped: list[str]) -> str:
    """Return the page."""
    head = "| work | store | figure | beside it | wanted | |\n|---|---|---|---|---|---|"
    words = {True: "reached", False: "**missed**", None: ""}
    lines = [
        f"| {row.work} | {row.store} | {row.figure} | {row.against} | {row.wanted} | {words[row.passed]} |"
        for row in rows
    ]
    parts = ["# Stores", ABOUT, "\n".join([head, *lines]), *skipped]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Run the suite; the exit code is 1 when something that must be reached is not."""
    parser = argparse.ArgumentParser(prog="python -m bench.stores", description=__doc__)
    parser.add_argument("--only", default=",".join(WORKS), help=f"works, of {', '.join(WORKS)}")
    parser.add_argument("--stores", default=",".join(STORES), help=f"stores, of {', '.join(STORES)}")
    parser.add_argument("--docs", type=Path, help="write the page into this folder (default: docs/bench, when all ran)")
    given = parser.parse_args()
    rows, skipped = list[Row](), list[str]()
    for name in given.stores.split(","):
        if (hint := missing(name)) is not None:
            skipped.append(f"{name} is not measured: {hint}")
            continue
        for row in measure(name, given.only.split(",")):
            rows.append(row)
            print(f"{row.work:26} {row.store:9} {row.figure:34} {row.against:60} {row.wanted}", flush=True)
    page = table(rows, skipped)
    is_whole = given.only == ",".join(WORKS) and given.stores == ",".join(STORES)
    folder = given.docs or (DOCS if is_whole else None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stores.md").write_text(page)
    return 1 if any(row.passed is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
