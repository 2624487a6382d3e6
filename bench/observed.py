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
    """Read the figures of the admin page as they come, on the generator's core."""
    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/live", timeout=30)

    def read() -> None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
        with suppress(OSError, ValueError, AttributeError):
            while answer.readline():
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        with suppress(OSError):
            answer.fp.raw._sock.shutdown(2)  # ends the reader, which waits in its read
        reader.join(5)
