"""Makes the tables and indexes, in the place of those that an operator has changed so that they are of no use."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing

from tidewire.backends.shared.statements import read

__all__ = ("drop_changed", "make")

#: The table of which an index may find two equal rows, after it was dropped.
_NUMBERED = "tidewire_publications"


@functools.cache
def _expected() -> dict[str, set[tuple[object, ...]]]:
    """Return the columns of each table of ours: its name, its type, its part in the key."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(read(__package__, "schema.sql"))
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: _columns(connection, name) for name in names if name.startswith("tidewire_")}


def _columns(connection: sqlite3.Connection, table: str) -> set[tuple[object, ...]]:
    return set(connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table,)))


def drop_changed(connection: sqlite3.Connection) -> set[str]:
    """Drop each table that has lost or changed a column; return their names."""
    dropped = set()
    for table, columns in _expected().items():
        found = _columns(connection, table)
        if found and not columns <= found:
            connection.execute(f"DROP TABLE {table}")
            dropped.add(table)
    return dropped


def make(connection: sqlite3.Connection) -> set[str]:
    """Make missing tables; return those that were lost because they could not have their index."""
    schema = f"BEGIN IMMEDIATE;\n{read(__package__, 'schema.sql')}\nCOMMIT;"
    try:
        connection.executescript(schema)
    except sqlite3.IntegrityError:
        connection.execute("ROLLBACK")
        connection.execute(f"DROP TABLE {_NUMBERED}")
        connection.executescript(schema)
        return {_NUMBERED}
    return set()
