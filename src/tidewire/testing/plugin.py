"""The pytest plugin: the fixture `realtime`. pytest finds it by itself where tidewire is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tidewire.testing.realtime import Realtime

__all__ = ("pytest_addoption", "realtime")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--realtime-seed`."""
    group = parser.getgroup("tidewire")
    group.addoption(
        "--realtime-seed",
        type=int,
        default=None,
        help="the seed of every realtime(app) that has none of its own; the same seed repeats the same order of events",
    )


@pytest.fixture
def realtime(request: pytest.FixtureRequest) -> Realtime:
    """Run an application with several clients: `async with realtime(app) as rt:`; `tidewire docs howto/testing`."""
    from tidewire.testing.realtime import Realtime

    return Realtime(request.config.getoption("--realtime-seed"))
