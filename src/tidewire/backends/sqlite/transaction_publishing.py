"""Publishes inside an application's own transaction in its own SQLite file, through its own connection.

The publication is a row of a table in that file, so that it is there if and only if the transaction commits.
`transaction_mover` moves it to the store.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from tidewire.backends.shared.application_connections import call, library, opened
from tidewire.backends.sqlite.database import SQL
from tidewire.errors import ConfigurationError
from tidewire.messages import PublishRequest

__all__ = ("publish_within",)

#: Executes a statement with named parameters, and returns its rows.
_Execute = Callable[[str, Mapping[str, object]], Awaitable[list[tuple[Any, ...]]]]
#: Called with the application's file before anything is written there; returns the name of the store.
Found = Callable[[Path], Awaitable[str]]
#: Lists the main database first. A SELECT of the same would take a snapshot of the file, behind which SQLite lets
#: nobody write once another connection has committed.
_FILES = "PRAGMA database_list"


async def publish_within(connection: object, request: PublishRequest, found: Found) -> None:
    """Put a publication into the transaction table by a connection or session of sqlite3, aiosqlite or SQLAlchemy.

    Everyone sees it after the commit of the connection's transaction, nobody after a rollback. Raises
    ConfigurationError for another kind of connection, and the errors of the connection.
    """
    execute = await _executor(connection)
    _, _, file = (await execute(_FILES, {}))[0]  # bytes, where the application has such a text_factory
    if not file:
        raise ConfigurationError("connection= has no file: publish in a transaction of a database on disk")
    store = await found(Path(os.fsdecode(file)))
    retention = request.retention
    await execute(SQL["transaction_create"], {})
    await execute(
        SQL["transaction_insert"],
        {
            "token": f"{store}:{secrets.token_hex(16)}",
            "channel": request.channel,
            "format": int(request.format),
            "data": request.data,
            "key": request.key,
            "key_age": request.key_age,
            "meta": request.meta,
            "keep_size": None if retention is None else retention.size,
            "keep_age": None if retention is None else retention.age,
        },
    )


async def _executor(connection: Any) -> _Execute:
    """Return a function that executes statements on a connection of any known library."""
    match library(connection, "sqlalchemy", "aiosqlite"):
        case "sqlalchemy":
            return _of_sqlalchemy(await opened(connection, "sqlite"))
        case "aiosqlite" if hasattr(connection, "execute"):
            return _of_aiosqlite(connection)
    if isinstance(connection, sqlite3.Connection):
        return _of_sqlite3(connection)
    raise ConfigurationError(
        f"connection={type(connection).__qualname__} is not known; give one of sqlite3, aiosqlite or SQLAlchemy"
    )


def _of_sqlalchemy(connection: Any) -> _Execute:
    text = sys.modules["sqlalchemy"].text

    async def execute(statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        result = await call(connection.execute, text(statement), dict(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    return execute


def _of_aiosqlite(connection: Any) -> _Execute:
    async def execute(statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        async with connection.execute(statement, dict(values)) as cursor:
            cursor.row_factory = None  # the application's own may make anything of a row
            return list(await cursor.fetchall())

    return execute


def _of_sqlite3(connection: sqlite3.Connection) -> _Execute:
    async def execute(statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        try:
            cursor = connection.cursor()
            cursor.row_factory = None  # the application's own may make anything of a row
            return cursor.execute(statement, dict(values)).fetchall()
        except sqlite3.ProgrammingError as error:
            if "thread" not in str(error):
                raise
            raise ConfigurationError(
                "connection= belongs to another thread than the hub's; open it with check_same_thread=False"
            ) from error

    return execute
