"""Makes, mends and migrates the tables and functions, and begins sessions on them."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import msgspec

from tidewire.backends.shared.statements import read, statements
from tidewire.errors import ConfigurationError

__all__ = ("FILLED", "FUNCTIONS", "SQL", "TABLES", "VERSION", "Seen", "enter", "prepare")

SQL = statements(__package__, "statements.sql")
_TABLES, _FUNCTIONS = read(__package__, "schema.sql"), read(__package__, "functions.sql")
#: The version of the schema that this code needs, and the names of its tables and functions.
VERSION = 2
TABLES = re.findall(r"TABLE IF NOT EXISTS (\w+)", _TABLES)
FUNCTIONS = re.findall(r"CREATE OR REPLACE FUNCTION (\w+)", _FUNCTIONS)
_INDEXES = re.findall(r"INDEX IF NOT EXISTS (\w+)", _TABLES)
_TRIGGERS = re.findall(r"CREATE TRIGGER (\w+) AFTER [\w ,]+ ON (\w+)", _FUNCTIONS)
#: Each column: its table, its name, its type, and whether the server fills it.
_COLUMNS = [
    (table, name, type_, "DEFAULT" in rest or "GENERATED" in rest)
    for table, body in re.findall(r"TABLE IF NOT EXISTS (\w+) \((.*?)\n\)", _TABLES, re.DOTALL)
    for name, type_, rest in re.findall(r'^    "?([a-z_]+)"? +(double precision|[a-z]+)(.*)', body, re.MULTILINE)
]

#: Names of columns that the server fills.
FILLED = {name for _, name, _, is_filled in _COLUMNS if is_filled}


class Seen(msgspec.Struct, frozen=True):
    """A place in a server's log that is known to have been flushed, and the identity of the data that it belongs to."""

    place: str
    identity: str


async def prepare(connection: Any) -> None:
    """Make everything of the schema that is not there, one process at a time.

    Where tables of publications were lost, a new era begins. Raises ConfigurationError when a newer tidewire has
    migrated the schema.
    """
    if await _is_whole(connection):
        return
    async with connection.transaction():
        await connection.execute(SQL["be_patient"])
        await connection.execute(SQL["lock_schema"])
        if await _is_whole(connection):
            return
        missing = await _missing(connection)
        for table in missing.intersection(TABLES):
            await connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")  # one that has lost or changed a column
        await connection.execute(_TABLES)
        await connection.execute(_FUNCTIONS)
        await connection.execute(SQL["create_store"], VERSION)
        if "tidewire_members" in missing:
            await connection.execute(SQL["forget_nodes"])  # they join their members again
        if missing & {"tidewire_channels", "tidewire_publications"}:  # a new counter may get an old one's id
            await connection.execute(SQL["empty"])


async def _missing(connection: Any) -> set[str]:
    """Return what is not there of tables, functions, indexes and triggers, and the tables of which a column is not."""
    triggers, columns = zip(*_TRIGGERS, strict=True), zip(*_COLUMNS, strict=True)
    rows = await connection.fetch(SQL["missing"], TABLES, FUNCTIONS, _INDEXES, *triggers, *columns)
    return {row["name"] for row in rows}


async def _is_whole(connection: Any) -> bool:
    """Return whether the schema is there, in this version."""
    missing = await _missing(connection)
    if "tidewire_store" in missing:
        return False
    try:
        found = await connection.fetchval(SQL["version"])  # None: an operator has emptied the table
    except asyncpg.UndefinedTableError:  # removed at this moment
        return False
    if found is not None and found > VERSION:
        raise ConfigurationError(
            f"the database has version {found} of tidewire's schema, and this tidewire knows {VERSION}; update it"
        )
    return found == VERSION and not missing


async def enter(connection: Any, seen: Seen | None) -> str:
    """Begin a session that publishes or listens, on the data that there is now; return the identity of that data.

    Where the data is not what it was before, or less than `seen`, a new era begins.
    """
    row = await connection.fetchrow(SQL["enter"], *((None, None) if seen is None else (seen.place, seen.identity)))
    return str(row["identity"])
