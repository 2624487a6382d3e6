"""What is measured, on whom and how often; servers take turns, so that a slow minute strikes all alike."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.load import Figures, GeneratorError, run_generator
from bench.observed import OBSERVED, looked_at
from bench.ours import Ours
from bench.processes import Running, ServerError
from bench.subjects import FEW, Subject

__all__ = ("CURVE_RATES", "CURVE_SUBSCRIBERS", "Plan", "Run", "Suite")

CURVE_SUBSCRIBERS = (10, 100, 1_000, 5_000)
CURVE_RATES = (10, 30, 100, 300, 1_000, 3_000)
#: The works that are measured on servers side by side, in their order, and the values of each: messages under way,
#: messages a second, subscribers or publishers.
VARIABLES = {
    "echo": (1, 64),
    "low": (500,),
    "few": FEW,
    "paced": (100,),
    "rooms": (50,),
    "fanout": (1, 16, 256),
}
#: Where the latency curve of a server ends: it no longer keeps up.
OVERLOADED_MS = 500.0


class Plan(msgspec.Struct, frozen=True):
    """How long and how often."""

    repetitions: int = 3
    #: How often the servers take turns in echo and few with each repetition: these windows are short.
    rounds: int = 1
    #: Turns of the servers that are looked at: what is compared is small.
    turns: int = 7
    warmup: float = 0.7
    window: float = 2.0
    frozen_window: float = 6.0
    curve_window: float = 1.0
    idle_connections: int = 5_000
    idle_hold: float = 6.0
    connect_connections: int = 5_000
    #: One after another, and the members of one channel.
    arrivals: int = 1_000
    members: int = 300
    small_window: float = 1.0
    big_subscribers: int = 10_000
    #: A window in which other programs used more of a core than this is repeated, so often.
    calm: float = 0.15
    attempts: int = 3
    #: Seconds, in the whole suite, that may be spent on repeating, and on waiting until the machine is calm.
    patience: float = 100.0

    @classmethod
    def quick(cls) -> Plan:
        """Short windows, few of them: to see that everything works, not to publish figures."""
        return cls(1, 2, 2, 0.3, 0.5, 4.0, 0.4, 1_000, 2.0, 1_500, 1_000, 100, 0.4, 2_000, patience=0.0)


class Run(msgspec.Struct, frozen=True):
    """One run: which work, on which server, its variable (publishers, subscribers or messages per second)."""

    work: str
    subject: str
    variable: float
    figures: Figures
    extra: dict[str, float] = {}


class Suite:
    """Runs the works that were asked for and collects what came out."""

    def __init__(self, subjects: Sequence[Subject], plan: Plan) -> None:
        self.subjects = list(subjects)
        self.plan = plan
        self.runs: list[Run] = []
        self.failures: list[str] = []
        self._patience = plan.patience

    def run(self, works: Sequence[str]) -> None:
        """Run these works, in the order of the suite."""
        for _ in range(self.plan.repetitions):
            self._side_by_side([work for work in VARIABLES if work in works])
        for work in ("connect", "arrive", "members", "frozen", "idle", "big", "curves"):
            repetitions = self.plan.repetitions if work in ("connect", "arrive", "members", "frozen") else 1
            for _ in range(repetitions if work in works else 0):
                for subject in self.subjects:
                    if work in subject.works:
                        self._guarded(subject, getattr(self, f"_{work}"))

        if "observed" in works and any(isinstance(subject, Ours) for subject in self.subjects):
            self._observed()

    def _observed(self) -> None:
        """The same work on servers that are looked at in different ways, which take turns."""
        with looked_at() as servers:
            for _ in range(self.plan.turns):
                for count in OBSERVED:
                    for subject, server in servers:
                        self._small("observed", subject, server, count, subscribers=count, in_flight=64)

    def _guarded(self, subject: Subject, measure: Callable[..., None], *arguments: Any) -> None:
        """A failure of one server is noted and shown; the others are measured all the same."""
        try:
            measure(subject, *arguments)
        except (ServerError, GeneratorError) as error:
            self.failures.append(f"{subject.name}: {error}")
            print(f"  {subject.name}: FAILED: {error}", file=sys.stderr, flush=True)

    def _measure(self, work: str, subject: Subject, server: Running, variable: float, **arguments: Any) -> Figures:
        options = {name.replace("_", "-"): value for name, value in arguments.items()}
        options = {"warmup": self.plan.warmup, "window": self.plan.window, **subject.arguments(server), **options}
        figures = self._calmest(options, repeatable=work not in ("connect", "arrive", "members", "idle"))
        self.runs.append(Run(work, subject.name, variable, figures))
        _show(work, subject.name, variable, figures)
        return figures

    def _calmest(self, options: dict[str, Any], *, repeatable: bool) -> Figures:
        """Run the generator; again, while other programs disturb it, and return the calmest.

        Connections are counted on a fresh server, and memory does not depend on the calm: they are run once.
        """
        found: list[Figures] = []
        for _ in range(self.plan.attempts if repeatable else 1):
            self._wait_until_calm()
            started = time.monotonic()
            found.append(run_generator(options))
            if found[-1].disturbance <= self.plan.calm or self._patience <= 0:
                break
            self._patience -= time.monotonic() - started
        return min(found, key=lambda figures: figures.disturbance)

    def _wait_until_calm(self) -> None:
        """Wait while other programs use much of a core, as long as the suite's patience lasts."""
        while self._patience > 0:
            before = busy_seconds()
            time.sleep(0.2)
            if busy_seconds() - before < 0.2 * self.plan.calm:
                return
            self._patience -= 0.2

    def _side_by_side(self, works: Sequence[str]) -> None:
        """Measure these works on servers that all run: each takes its turn with a value before the next value comes."""
        subjects = [subject for subject in self.subjects if not subject.works.isdisjoint(works)]
        servers: list[tuple[Subject, Running]] = []
        with ExitStack() as stack:
            for subject in subjects:
                self._guarded(subject, lambda subject: servers.append((subject, stack.enter_context(subject.serve()))))
            for work in works:
                taking_part = [(subject, server) for subject, server in servers if work in subject.works]
                for value in VARIABLES[work] * (self.plan.rounds if work in ("echo", "few") else 1):
                    for subject, server in taking_part:
                        if work != "fanout" or value in subject.publishers:
                            self._guarded(subject, getattr(self, f"_{work}"), server, value)

    def _fanout(self, subject: Subject, server: Running, publishers: int) -> None:
        self._measure("fanout", subject, server, publishers, mode="fanout", publishers=publishers)

    def _echo(self, subject: Subject, server: Running, window: int) -> None:
        """One client that has so many messages under way."""
        self._small("echo", subject, server, window, subscribers=1, in_flight=window)

    def _few(self, subject: Subject, server: Running, count: int) -> None:
        """One connection publishes, to so many subscribers."""
        self._small("few", subject, server, count, subscribers=count, in_flight=64)

    def _small(self, work: str, subject: Subject, server: Running, variable: float, **arguments: Any) -> None:
        window = self.plan.small_window
        self._measure(
            work, subject, server, variable, mode="fanout", publishers=1, warmup=0.2, window=window, **arguments
        )

    def _low(self, subject: Subject, server: Running, rate: int) -> None:
        """So few messages to one client that each is alone: what counts is the server's CPU time."""
        self._measure("low", subject, server, rate, mode="paced", rate=rate, publishers=1, subscribers=1, warmup=0.2)

    def _paced(self, subject: Subject, server: Running, rate: int) -> None:
        self._measure("paced", subject, server, rate, mode="paced", rate=rate, publishers=16, warmup=0.5)

    def _rooms(self, subject: Subject, server: Running, rate: int) -> None:
        self._measure("rooms", subject, server, rate, mode="paced", rate=rate, rooms=100, subscribers=10, warmup=0.5)

    def _connect(self, subject: Subject) -> None:
        count = self.plan.connect_connections
        with subject.serve() as server:
            self._measure("connect", subject, server, count, mode="connect", subscribers=count, warm=100)

    def _arrive(self, subject: Subject) -> None:
        """One connection after another."""
        count = self.plan.arrivals + 100
        with subject.serve() as server:
            self._measure("arrive", subject, server, 1, mode="connect", subscribers=count, warm=100, parallel=1)

    def _members(self, subject: Subject) -> None:
        """So many join one channel, each told of every other, and leave it at once."""
        count = self.plan.members
        with subject.serve() as server:
            self._measure("members", subject, server, count, mode="connect", subscribers=count + 1, warm=1, parallel=16)
            self.runs[-1].extra["leave_seconds"] = _seconds_until_idle(server)

    def _idle(self, subject: Subject) -> None:
        """The first thousand take the memory that the start has left, which differs by whether it compiled modules."""
        count, hold = self.plan.idle_connections, self.plan.idle_hold
        with subject.serve(ping_seconds=5) as server:
            self._measure("idle", subject, server, count, mode="idle", subscribers=count + 1_000, warm=1_000, hold=hold)

    def _frozen(self, subject: Subject) -> None:
        """The same readers without and with ten more who never read, on one server."""
        with subject.serve() as server, _peak_rss(server) as peak:
            window = self.plan.frozen_window
            self._measure("frozen", subject, server, 0, mode="fanout", publishers=16, subscribers=990, window=window)
            before = peak()
            self._measure(
                "frozen", subject, server, 10, mode="fanout", publishers=16, subscribers=1_000, frozen=10, window=window
            )
            self.runs[-1].extra["growth"] = max(0, peak() - before)

    def _big(self, subject: Subject) -> None:
        count = self.plan.big_subscribers
        with subject.serve() as server:
            self._measure(
                "big", subject, server, count, mode="paced", rate=4, subscribers=count, window=5, parallel=32, limit=60
            )
            if isinstance(subject, Ours):
                self.runs[-1].extra.update(_statistics(server))

    def _curves(self, subject: Subject) -> None:
        with subject.serve() as server:
            for count in CURVE_SUBSCRIBERS:
                publishers = subject.publishers[0]
                self._measure(
                    "subscribers",
                    subject,
                    server,
                    count,
                    mode="fanout",
                    subscribers=count,
                    publishers=min(publishers, count),
                    window=self.plan.curve_window,
                    warmup=0.5,
                    drain=4,
                )
        with subject.serve() as server:
            for rate in CURVE_RATES:
                figures = self._measure(
                    "load",
                    subject,
                    server,
                    rate,
                    mode="paced",
                    rate=rate,
                    publishers=16,
                    window=self.plan.curve_window,
                    warmup=0.5,
                    drain=2,
                )
                if figures.latency.p99_ms > OVERLOADED_MS or not figures.complete:
                    break


def _show(work: str, name: str, variable: float, figures: Figures) -> None:
    latency = figures.latency
    rate = figures.completed / figures.seconds if work in ("echo", "few") else figures.rate
    rate = rate or figures.connections / figures.connect_seconds
    columns = (
        f"  {work:11} {variable:>6g} {name:22} {rate:>12,.0f}/s",
        f"p50 {latency.p50_ms:9.3f} ms  p99 {latency.p99_ms:9.3f} ms",
        f"server {figures.server_cpu:4.0%}  generator {figures.generator_cpu:4.0%}  others {figures.disturbance:4.0%}",
        "" if figures.complete else "INCOMPLETE",
    )
    print("  ".join(columns), flush=True)


def busy_seconds() -> float:
    """Return the seconds that all cores together have been busy."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _seconds_until_idle(server: Running) -> float:
    """Return for how long the server works on, after all its clients have gone."""
    began, busy = time.monotonic(), time.monotonic()
    before = -1
    while time.monotonic() - busy < 0.3 and busy - began < 20:
        ticks = sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15])) for pid in server.pids)
        if ticks > before + 1:
            before, busy = ticks, time.monotonic()
        time.sleep(0.05)
    return busy - began


def _statistics(server: Running) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/stats", timeout=5) as answer:
        values: dict[str, float] = json.load(answer)
        return values


@contextmanager
def _peak_rss(server: Running) -> Iterator[Any]:
    """Yield a function that returns the largest resident size, in bytes, since it was last called."""
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            try:
                pages = sum(int(open(f"/proc/{pid}/statm").read().split()[1]) for pid in server.pids)  # noqa: SIM115
            except FileNotFoundError:
                return
            largest[0] = max(largest[0], pages * 4096)

    def take() -> int:
        time.sleep(0.25)
        value, largest[0] = largest[0], 0
        return value

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield take
    finally:
        ended.set()
        thread.join()
