"""What it costs to look: the same server without and with metrics, traces and an open admin page, by turns."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from bench.ours import Centrifuge
from bench.processes import Running

__all__ = ("LOOKS", "OBSERVED", "Observed", "looked_at")

#: The ways to look, and how many times the CPU time of a message each may cost.
LOOKS = {"metrics": 1.02, "traces": 1.03, "page": 1.03}
#: In how many subscribers' rooms one connection publishes.
OBSERVED = (10, 100)


class Observed(Centrifuge):
    """Clients of the Centrifuge protocol, on a server that is looked at in one way, or none ("off")."""

    def __init__(self, look: str) -> None:
        super().__init__("json")
        self.look = look
        self.name, self.works = f"ours-observed-{look}", frozenset()

    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        command, environment = super().command(port, ping_seconds)
        return command, {**environment, "BENCH_LOOK": self.look}


@contextmanager
def looked_at() -> Iterator[list[tuple[Observed, Running]]]:
    """Run a server for each way to look, and one that nobody looks at; a page is open where there is one."""
    with ExitStack() as stack:
        found = []
        for look in ("off", *LOOKS):
            subject = Observed(look)
            server = stack.enter_context(subject.serve())
            if look == "page":
                stack.enter_context(_open_page(server.port))
            found.append((subject, server))
        yield found


@contextmanager
def _open_page(port: int) -> Iterator[None]:
    """Read the figures of the admin page as it does, on the generator's core: when they end, it asks for more."""
    ended = threading.Event()

    def read() -> None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
        while not ended.is_set():
            with suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=5) as answer:
                while not ended.is_set() and answer.readline():
                    pass

    url = f"http://127.0.0.1:{port}/admin/live"
    with urllib.request.urlopen(url, timeout=30) as answer:
        answer.readline()  # it is there
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        ended.set()  # a line comes every 0.4 s
        reader.join(10)
