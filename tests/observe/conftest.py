"""The stores that several processes share, each with a server of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers.stores import postgres_database, start_nats, start_redis


@pytest.fixture(params=["sqlite", "redis", "postgresql", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/store.db"
        elif request.param == "postgresql":
            yield postgres_database()
        else:
            start = start_redis if request.param == "redis" else start_nats
            yield f"{request.param}://127.0.0.1:{stack.enter_context(start(tmp_path)).port}"
