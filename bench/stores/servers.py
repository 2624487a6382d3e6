"""The stores, each started on a free port as the tests start them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from helpers.stores import start_nats, start_postgres, start_redis

__all__ = ("STORES", "missing", "serving")


@contextmanager
def _sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/bench.db"


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    # as a careful operator runs it: what was acknowledged is lost for a second at most
    with start_redis(folder, "--appendonly", "yes", "--appendfsync", "everysec") as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    with start_postgres("max_wal_size=1GB", "max_connections=500") as server:
        yield server.url()


@contextmanager
def _nats(folder: Path) -> Iterator[str]:
    with start_nats(folder) as server:
        yield f"nats://127.0.0.1:{server.port}"


STORES: dict[str, Callable[[Path], object]] = {"sqlite": _sqlite, "redis": _redis, "postgres": _postgres, "nats": _nats}
_PROGRAMS = {"redis": ("redis-server", "redis-benchmark"), "nats": ("nats-server",)}
_PACKAGES = {"redis": "redis-server redis-tools", "postgres": "postgresql", "nats": "nats-server"}


def missing(name: str) -> str | None:
    """Return what to install for a store, or None."""
    if name == "postgres":
        is_there = any(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    else:
        is_there = all(shutil.which(program) for program in _PROGRAMS.get(name, ()))
    return None if is_there else f"apt-get install {_PACKAGES[name]}"


@contextmanager
def serving(name: str, folder: Path) -> Iterator[str]:
    """Run a store, and give its URL."""
    with STORES[name](folder) as url:  # type: ignore[attr-defined]
        yield url
