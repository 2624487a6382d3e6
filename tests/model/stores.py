"""The stores that the model runs on: each one started for the test, with what makes it lose everything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

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


STORES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Store]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
}


def running(name: str, path: Path) -> contextlib.AbstractContextManager[Store]:
    """Start a store by its name, in a folder of its own."""
    return STORES[name](path)
