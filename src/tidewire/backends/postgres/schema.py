"""Makes and migrates the tables and functions, and begins connections on them."""

from __future__ import annotations

from typing import Any

import asyncpg

from tidewire.backends.shared.statements import read, statements
from tidewire.errors import ConfigurationError

__all__ = ("SQL", "VERSION", "enter", "prepare")

SQL = statements(__package__, "statements.sql")
#: The version of the schema that this code needs.
VERSION = 1


async def prepare(connection: Any) -> None:
    """Make the schema if it is not there, one process at a time.

    Raises ConfigurationError when a newer tidewire has migrated it.
    """
    if await _found(connection) == VERSION:
        return
    async with connection.transaction():
        await connection.execute(SQL["be_patient"])
        await connection.execute(SQL["lock_schema"])
        found = await _found(connection)
        if found == VERSION:
            return
        if found > VERSION:
            raise ConfigurationError(
                f"the database has version {found} of tidewire's schema, and this tidewire knows {VERSION}; update it"
            )
        await connection.execute(read(__package__, "schema.sql"))
        await connection.execute(read(__package__, "functions.sql"))
        await connection.execute(SQL["create_store"], VERSION)


async def _found(connection: Any) -> int:
    """Return the version of the schema that is there; 0: none."""
    if not await connection.fetchval(SQL["has_store"]):
        return 0
    try:
        return int(await connection.fetchval(SQL["version"]))
    except asyncpg.UndefinedTableError:  # removed at this moment
        return 0


async def enter(connection: Any, seen: str | None) -> str:
    """Begin a connection that publishes or listens: return the era that its publications belong to.

    `seen` is a place in the server's log that is known to have been flushed.
    """
    return str(await connection.fetchval(SQL["enter"], seen))
