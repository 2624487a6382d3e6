"""The contract suites over every store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.backends.sqlite import SqliteBroker, SqlitePresence
from tidewire.options import Limits
from tidewire.testing import BrokerContract, PresenceContract, StoreUnderTest


def memory(path: Path) -> StoreUnderTest:
    return StoreUnderTest(broker=MemoryBroker, presence=MemoryPresence, shared=False, lasting=False)


def sqlite(path: Path) -> StoreUnderTest:
    file = path / "chat.db"
    return StoreUnderTest(
        broker=lambda: SqliteBroker(file, Limits()),
        presence=lambda: SqlitePresence(file, lease=1.0, grace=0.5),
        shared=True,
        lasting=True,
    )


@pytest.fixture(params=[memory, sqlite], ids=lambda make: make.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnderTest:
    make: Callable[[Path], StoreUnderTest] = request.param
    return make(tmp_path)


class TestBroker(BrokerContract):
    pass


class TestPresence(PresenceContract):
    pass
