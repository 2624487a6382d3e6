"""The contract suites over every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers.stores import postgres_database, start_nats, start_redis
from tidewire.backends.memory import MemoryBroker, MemoryPresence
from tidewire.backends.nats import NatsAddress, NatsBroker, NatsPresence
from tidewire.backends.postgres import PostgresBroker, PostgresPresence
from tidewire.backends.redis import RedisBroker, RedisPresence
from tidewire.backends.redis.address import parse_address
from tidewire.backends.sqlite import SqliteBroker, SqlitePresence
from tidewire.limits import Limits
from tidewire.testing import BrokerContract, PresenceContract, StoreUnderTest

#: What a contract asks of a store does not depend on how quick the machine is.
PATIENT = Limits(publish_seconds=10.0)


def memory(path: Path, stack: ExitStack) -> StoreUnderTest:
    return StoreUnderTest(broker=MemoryBroker, presence=MemoryPresence, shared=False, lasting=False)


def sqlite(path: Path, stack: ExitStack) -> StoreUnderTest:
    file = path / "chat.db"
    return StoreUnderTest(
        broker=lambda: SqliteBroker(file, PATIENT),
        presence=lambda: SqlitePresence(file, lease=1.0, grace=0.5),
        shared=True,
        lasting=True,
    )


def redis(path: Path, stack: ExitStack) -> StoreUnderTest:
    server = stack.enter_context(start_redis(path))
    address = parse_address(f"redis://127.0.0.1:{server.port}")
    return StoreUnderTest(
        broker=lambda: RedisBroker(address, PATIENT),
        presence=lambda: RedisPresence(address, lease=1.0),
        shared=True,
        lasting=True,
    )


def postgres(path: Path, stack: ExitStack) -> StoreUnderTest:
    url = postgres_database()
    return StoreUnderTest(
        broker=lambda: PostgresBroker(url, PATIENT),
        presence=lambda: PostgresPresence(url, PATIENT.publish_seconds, lease=1.0, grace=0.5),
        shared=True,
        lasting=True,
    )


def nats(path: Path, stack: ExitStack) -> StoreUnderTest:
    server = stack.enter_context(start_nats(path))
    address = NatsAddress.from_url(f"nats://127.0.0.1:{server.port}")
    return StoreUnderTest(
        broker=lambda: NatsBroker(address, PATIENT),
        presence=lambda: NatsPresence(address, PATIENT, lease=1.0),
        shared=True,
        lasting=True,
    )


@pytest.fixture(params=[memory, sqlite, redis, postgres, nats], ids=lambda make: make.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreUnderTest]:
    make: Callable[[Path, ExitStack], StoreUnderTest] = request.param
    with ExitStack() as stack:
        yield make(tmp_path, stack)


class TestBroker(BrokerContract):
    pass


class TestPresence(PresenceContract):
    pass
