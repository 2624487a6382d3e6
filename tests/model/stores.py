"""The stores that the model runs on: each one started for the test, with what makes it lose everything."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers.stores import Daemon, start_nats, start_postgres, start_redis
from model.world import Store

__all__ = ("STORES", "running")


@contextlib.contextmanager
def _memory(path: Path) -> Iterator[Store]:
    yield Store("memory://", nodes=1, is_node=True)


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[Store]:
    file = path / "model.db"

    def remove() -> None:
        for found in path.glob("model.db*"):
            if found.is_file():
                found.unlink()

    yield Store(f"sqlite:///{file}", lose=remove, loses_offline=True)


def _emptied(server: Daemon, url: str) -> Store:
    """A server that loses everything when it is killed and its folder is removed."""

    def lose() -> None:
        server.kill()
        for found in ("data", "dump.rdb", "appendonlydir"):
            shutil.rmtree(server.folder / found, ignore_errors=True)
            (server.folder / found).unlink(missing_ok=True)
        server.start()

    return Store(url, lose=lose)


@contextlib.contextmanager
def _redis(path: Path) -> Iterator[Store]:
    with start_redis(path) as server:
        yield _emptied(server, f"redis://127.0.0.1:{server.port}/0")


@contextlib.contextmanager
def _nats(path: Path) -> Iterator[Store]:
    with start_nats(path) as server:
        yield _emptied(server, f"nats://127.0.0.1:{server.port}")


@contextlib.contextmanager
def _postgres(path: Path) -> Iterator[Store]:
    with start_postgres() as server:

        def lose() -> None:
            server.kill()
            server.fresh()
            server.start()

        yield Store(server.url(), lose=lose)


STORES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Store]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "postgres": _postgres,
    "nats": _nats,
}


def running(name: str, path: Path) -> contextlib.AbstractContextManager[Store]:
    """Start a store by its name, in a folder of its own."""
    return STORES[name](path)
