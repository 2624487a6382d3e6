"""A server under test: how it is started, and how the generator speaks to it."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import Running, free_port, running

__all__ = ("ALL_WORKS", "FEW", "QUICK_WORKS", "SMALL_WORKS", "Subject", "uvicorn", "write_config")

#: A message to few, one newcomer, one program that publishes.
SMALL_WORKS = ("echo", "few", "low", "connect", "arrive", "members", "observed")
ALL_WORKS = (*SMALL_WORKS, "paced", "rooms", "fanout", "frozen", "idle", "big", "curves")
#: What `--quick` measures unless it is told otherwise.
QUICK_WORKS = ("echo", "few", "low", "connect", "arrive", "paced", "fanout", "observed")
#: In how many subscribers' rooms one connection publishes.
FEW = (2, 10, 100, 1_000)


class Subject(ABC):
    """One server under test."""

    #: What stands in the tables and names its files.
    name: str
    #: The paths to subscribe and publish at; without the second, subscribers publish on their own connection.
    path: str
    publish_path: str | None = None
    dialect = "plain"
    #: The process that is started is a master, and its children serve.
    has_master = False
    #: In which works it takes part: those that the table needs, so that the suite ends in time.
    works: frozenset[str] = frozenset({"fanout", "curves"})
    #: How many connections publish in the fan-out work; the first is used where only one number can be.
    publishers: tuple[int, ...] = (1, 16)

    def missing(self) -> str | None:
        """Return how to install what is missing, or None."""
        return None

    @abstractmethod
    def command(self, port: int, ping_seconds: int) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that run it."""

    @contextmanager
    def serve(self, *, ping_seconds: int = 25) -> Iterator[Running]:
        """Run the server for as long as the block lasts."""
        port = free_port()
        command, environment = self.command(port, ping_seconds)
        with running(self.name, port, command, environment, has_master=self.has_master) as server:
            yield server

    def arguments(self, server: Running) -> dict[str, Any]:
        """Return the generator's options for this server."""
        publish = {"publish-path": self.publish_path} if self.publish_path else {}
        pids = ",".join(str(pid) for pid in server.pids)
        return {"port": server.port, "path": self.path, "dialect": self.dialect, "pids": pids, **publish}


def uvicorn(app: str, port: int, ping_seconds: int, *more: str) -> list[str]:
    """Return the command of a well configured uvicorn: uvloop, httptools, no compression, no access log."""
    options = {
        "--port": str(port),
        "--loop": "uvloop",
        "--http": "httptools",
        "--ws-per-message-deflate": "false",
        "--ws-ping-interval": str(ping_seconds),
        "--backlog": "4096",
        "--log-level": "warning",
    }
    return [
        sys.executable,
        "-m",
        "uvicorn",
        app,
        *(word for pair in options.items() for word in pair),
        "--no-access-log",
        *more,
    ]


def write_config(source: Path, target: Path, values: dict[str, str]) -> Path:
    """Fill the marks of a configuration file, `@name@`."""
    text = source.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    target.write_text(text)
    return target
