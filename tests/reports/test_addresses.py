"""Addresses as people have them in their settings, for other tools."""

from __future__ import annotations

import pytest

from backends.postgres.helpers import client_of, postgres_node
from engine.support import run
from helpers.stores import postgres_database
from tidewire.backends import open_backend
from tidewire.backends.redis.address import parse_address
from tidewire.errors import ConfigurationError
from tidewire.limits import Limits


@pytest.mark.parametrize("password", ["p@ss", "@", "a@b@c", "p%40ss@"])
def test_a_password_may_have_an_at_sign(password: str) -> None:
    """The driver took what follows its first @ for the host: "Name or service not known" (MagicStack/asyncpg#637)."""

    async def scenario(url: str) -> None:
        scheme, _, place = url.partition("://")
        account, _, host = place.rpartition("@")
        user = account.partition(":")[0] or "postgres"
        async with postgres_node(f"{scheme}://{user}:{password}@{host}") as node, client_of(url):
            assert (await node.publish("a", b"1")).offset == 1

    run(scenario(postgres_database()), 20)


def test_the_database_before_the_service_of_sentinels() -> None:
    """As python-socketio and Celery write it (python-socketio#1457); "the database is 'mymaster'" was the answer."""
    address = parse_address("redis+sentinel://h1:26379,h2:26379/2/mymaster")
    assert (address.service, address.db) == ("mymaster", 2)
    with pytest.raises(ConfigurationError, match="names no Sentinel service"):
        parse_address("rediss+sentinel://h1:26379/0")  # was the service "0"


@pytest.mark.parametrize("scheme", ["sqlite+aiosqlite", "sqlite+pysqlite"])
def test_a_driver_of_sqlalchemy_is_told_what_to_write(scheme: str) -> None:
    """`DATABASE_URL` of an application is SQLAlchemy's; for PostgreSQL it works, and for SQLite it was "not known"."""
    with pytest.raises(ConfigurationError, match="write sqlite:///"):
        open_backend(f"{scheme}:///app.db", Limits())
