"""Publishes inside an application's own transaction, through its own connection of any known library."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from tidewire.backends.postgres.publishing import stored_key
from tidewire.backends.postgres.schema import SQL
from tidewire.errors import ConfigurationError
from tidewire.messages import PublishRequest

__all__ = ("publish_within",)

_PARAMETER = re.compile(r"(?<!:):(\w+)")


async def publish_within(connection: object, request: PublishRequest) -> None:
    """Put a publication into the transaction table by an asyncpg, psycopg or SQLAlchemy connection or session.

    Everyone sees it after the commit of the connection's transaction, nobody after a rollback. A synchronous connection
    is used in a thread. Raises ConfigurationError for another kind of connection, and the errors of the
    connection.
    """
    values = {
        "channel": request.channel,
        "format": int(request.format),
        "data": request.data,
        "key": stored_key(request.key),
        "key_age": request.key_age,
        "meta": request.meta,
    }
    execute, arguments = _call(connection, SQL["publish"], values)
    if inspect.iscoroutinefunction(execute) or _library(connection) == "asyncpg":
        await execute(*arguments)
    else:
        await asyncio.to_thread(execute, *arguments)


def _library(connection: object) -> str:
    """Return which library made a connection, or a class that its class stands on."""
    packages = [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]
    return next((name for name in ("sqlalchemy", "asyncpg", "psycopg") if name in packages), "")


def _call(connection: Any, statement: str, values: Mapping[str, object]) -> tuple[Any, tuple[object, ...]]:
    """Return the method that runs a statement on a connection, and the arguments in the library's own words."""
    match _library(connection):
        case "sqlalchemy":
            return connection.execute, (sys.modules["sqlalchemy"].text(statement), dict(values))
        case "asyncpg":
            places = {name: f"${place}" for place, name in enumerate(values, 1)}
            return connection.execute, (_PARAMETER.sub(lambda m: places[m[1]], statement), *values.values())
        case "psycopg":
            return connection.execute, (_PARAMETER.sub(r"%(\1)s", statement), dict(values))
    raise ConfigurationError(
        f"connection={type(connection).__qualname__} is not known; give one of asyncpg, psycopg or SQLAlchemy, or "
        "run `SELECT tidewire_publish(channel, data)` in your transaction"
    )
