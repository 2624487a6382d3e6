"""Servers that the tests share: started once, each test with users and rooms of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .serving import Server

StartServer = Callable[..., Server]

_rooms = itertools.count(1)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers for one test: `start_server("--access-log", broker="sqlite:///x.db", limits={"rate": 5})`."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> Server:
            folder = tmp_path / f"server{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Server(folder, *arguments, **options).running())

        yield start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with its defaults but for the store, which is memory."""
    with Server(tmp_path_factory.mktemp("memory")).running() as running:
        yield running


#: Tests write faster than people; what the rate does is in test_bad_input.py.
FAST = {"rate": 100_000, "burst": 100_000}
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "memory": {"limits": FAST},
    "sqlite": {"broker": "sqlite:///tidewire.db", "limits": FAST},
    "two-workers": {"broker": "sqlite:///tidewire.db", "workers": 2, "limits": FAST},
}


#: Two workers have the same store, and all that one does.
_PARAMETERS = ["memory", pytest.param("sqlite", marks=pytest.mark.slow), "two-workers"]


@pytest.fixture(scope="session", params=_PARAMETERS)
def every_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on each store, and one with two workers: what holds on one must hold on all."""
    with Server(tmp_path_factory.mktemp(request.param), **ARRANGEMENTS[request.param]).running() as running:
        yield running


@pytest.fixture
def room() -> str:
    """A room that no other test uses."""
    return f"room-{next(_rooms)}"
