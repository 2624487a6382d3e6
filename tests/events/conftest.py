"""Every store, as a URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.stores import store_url


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with store_url(request.param, tmp_path) as found:
        yield found


@pytest.fixture(params=["sqlite", "redis", "postgresql", "nats"])
def kept_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Every store that several processes may use."""
    with store_url(request.param, tmp_path) as found:
        yield found
