"""The stores that tests of sessions run over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.stores import postgres_database, start_nats, start_redis


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty store of each kind."""
    if request.param == "redis":
        with start_redis(tmp_path) as server:
            yield f"redis://127.0.0.1:{server.port}"
    elif request.param == "nats":
        with start_nats(tmp_path) as server:
            yield f"nats://127.0.0.1:{server.port}"
    elif request.param == "postgresql":
        yield postgres_database()
    else:
        yield "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db"
