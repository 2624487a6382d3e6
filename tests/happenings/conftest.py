"""Every store, as a URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.stores import postgres_database, start_nats, start_redis


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from _store(request.param, tmp_path)


@pytest.fixture(params=["sqlite", "redis", "postgresql", "nats"])
def kept_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Every store that several processes may use."""
    yield from _store(request.param, tmp_path)


def _store(kind: str, folder: Path) -> Iterator[str]:
    if kind in ("redis", "nats"):
        with (start_redis if kind == "redis" else start_nats)(folder / kind) as daemon:
            yield f"{kind}://127.0.0.1:{daemon.port}"
    elif kind == "postgresql":
        yield postgres_database()
    else:
        yield "memory://" if kind == "memory" else f"sqlite:///{folder}/store.db"
