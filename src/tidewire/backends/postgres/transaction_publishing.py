"""Publishes inside an application's own transaction, through its own connection of any known library."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from tidewire.backends.postgres.publishing import stored_key
from tidewire.backends.postgres.schema import SQL
from tidewire.backends.shared.application_connections import call, library, opened
from tidewire.errors import ConfigurationError
from tidewire.messages import PublishRequest

__all__ = ("publish_within",)

_PARAMETER = re.compile(r"(?<!:):(\w+)")
#: The codes of a database without such a function, or without such a schema.
_UNKNOWN = ("42883", "3F000")


async def publish_within(connection: object, request: PublishRequest, schema: str) -> None:
    """Put a publication into the transaction table by an asyncpg, psycopg or SQLAlchemy connection or session.

    Everyone sees it after the commit of the connection's transaction, nobody after a rollback. A synchronous connection
    is used in a thread. `schema`: the quoted name of that of the store. Raises ConfigurationError for another kind of
    connection, and the errors of the connection.
    """
    values = {
        "channel": request.channel,
        "format": int(request.format),
        "data": request.data,
        "key": stored_key(request.key),
        "key_age": request.key_age,
        "meta": request.meta,
    }
    maker = library(connection, "sqlalchemy", "asyncpg", "psycopg")
    target: Any = await opened(connection, "postgresql") if maker == "sqlalchemy" else connection
    if not maker or not hasattr(target, "execute") or _is_pool(connection):
        raise ConfigurationError(
            f"connection={type(connection).__qualname__} is not known; give one of asyncpg, psycopg or SQLAlchemy, or "
            "run `SELECT tidewire_publish(channel, data)` in your transaction"
        )
    statement = SQL["publish"].replace("tidewire_publish_bytes", f"{schema}.tidewire_publish_bytes")
    arguments = _arguments(maker, statement, values)
    try:
        await (target.execute(*arguments) if maker == "asyncpg" else call(target.execute, *arguments))
    except Exception as error:
        if getattr(getattr(error, "orig", error), "sqlstate", None) not in _UNKNOWN:
            raise
        raise ConfigurationError(
            "connection= is one to another database than the hub's, which has no tables of tidewire; give the hub the "
            "application's database"
        ) from error


def _is_pool(connection: object) -> bool:
    """Return whether each call would be a transaction of its own."""
    return any(kind.__name__ == "Pool" for kind in type(connection).__mro__)


def _arguments(maker: str, statement: str, values: Mapping[str, object]) -> tuple[object, ...]:
    """Return a statement and its values in a library's own words."""
    match maker:
        case "sqlalchemy":
            return sys.modules["sqlalchemy"].text(statement), dict(values)
        case "asyncpg":
            places = {name: f"${place}" for place, name in enumerate(values, 1)}
            return _PARAMETER.sub(lambda m: places[m[1]], statement), *values.values()
    return _PARAMETER.sub(r"%(\1)s", statement), dict(values)
