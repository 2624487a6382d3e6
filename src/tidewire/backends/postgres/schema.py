"""Makes, mends and migrates the tables and functions, and begins sessions on them."""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections.abc import Iterable
from typing import Any

import asyncpg
import msgspec

from tidewire.backends.shared.statements import read, statements
from tidewire.errors import ConfigurationError

__all__ = ("BODIES", "FILLED", "FUNCTIONS", "SQL", "TABLES", "VERSION", "Seen", "enter", "mend", "prepare")

SQL = statements(__package__, "statements.sql")
_TABLES, _FUNCTIONS = read(__package__, "schema.sql"), read(__package__, "functions.sql")
#: The version of the schema that this code needs, and the names of its tables and functions.
VERSION = 6
TABLES = re.findall(r"TABLE IF NOT EXISTS (\w+)", _TABLES)
FUNCTIONS = re.findall(r"CREATE OR REPLACE FUNCTION (\w+)", _FUNCTIONS)
#: The bodies of these, as the server keeps them.
BODIES = _FUNCTIONS.split("$$")[1::2]
#: Each of them with what belongs to it.
_PARTS = re.split(r"(?m)^(?=CREATE OR REPLACE FUNCTION )", _FUNCTIONS)[1:]
_INDEXES = re.findall(r"INDEX IF NOT EXISTS (\w+)", _TABLES)
_TRIGGERS = re.findall(r"CREATE (?:CONSTRAINT )?TRIGGER (\w+) (?:AFTER|BEFORE) [\w ,]+ ON (\w+)", _FUNCTIONS)
#: The trigger that gives numbers at commits; the others notice an operator's removals.
_NUMBERS = "trigger of tidewire_outbox"
#: Each column: its table, its name, its type, and whether the server fills it.
_COLUMNS = [
    (table, name, type_, "DEFAULT" in rest or "GENERATED" in rest)
    for table, body in re.findall(r"TABLE IF NOT EXISTS (\w+) \((.*?)\n\)", _TABLES, re.DOTALL)
    for name, type_, rest in re.findall(r'^    "?([a-z_]+)"? +(double precision|[a-z]+)(.*)', body, re.MULTILINE)
]

#: Names of columns that the server fills.
FILLED = {name for _, name, _, is_filled in _COLUMNS if is_filled}
#: Seconds for which a migration tries to get the tables alone, and seconds between two tries.
_TRYING, _BETWEEN = 4.0, 0.25
#: Seconds for which a try waits for a table, and the most for the one that it asks for first, three times as long as
#: the last try did: transactions of an application that overlap leave it no moment otherwise.
_BRIEF, _PATIENT = 0.2, 2.0


class Seen(msgspec.Struct, frozen=True):
    """A place in a server's log that is known to have been flushed, and the identity of the data that it belongs to."""

    place: str
    identity: str


async def prepare(connection: Any) -> None:
    """Make everything of the schema that is not there or was changed, one process at a time.

    Where tables of publications were lost, or the triggers that notice an operator's removals, a new era begins. Raises
    ConfigurationError when a newer tidewire has migrated the schema, and asyncpg's LockNotAvailableError when others
    use the tables for long; publishing in transactions waits meanwhile for up to 2 s, others for a moment.
    """
    missing = await _missing(connection)
    if await _version(connection, missing) == VERSION and not missing:
        return
    clock = asyncio.get_running_loop().time
    end, wait = clock() + _TRYING, _BRIEF
    while True:
        try:
            async with connection.transaction():
                await _migrate(connection, wait)
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if clock() + _BETWEEN + _BRIEF >= end:
                raise
        await asyncio.sleep(_BETWEEN * random.uniform(0.5, 1.5))
        wait = max(_BRIEF, min(3 * wait, _PATIENT, end - clock()))


async def _migrate(connection: Any, wait: float) -> None:
    await connection.execute(SQL["be_patient"])
    await connection.execute(SQL["lock_schema"])
    await connection.execute(SQL["pin_path"])
    missing = await _missing(connection)
    before = await _version(connection, missing)
    if before == VERSION and not missing:
        return
    # first the table that an application's transaction may hold for long: nobody else waits for that one then
    for names, seconds in ((["tidewire_outbox"], wait), (TABLES, _BRIEF)):
        await connection.execute(f"SET LOCAL lock_timeout = {seconds * 1e3:.0f}")
        for row in await connection.fetch(SQL["tables"], names):
            await connection.execute(f"LOCK TABLE {row['name']} IN ACCESS EXCLUSIVE MODE")
    for statement in (name for name in missing if name.startswith("ALTER TABLE")):
        await connection.execute(statement)
    await _drop(connection, missing)
    missing |= await _make(connection)
    await connection.execute(SQL["create_store"], VERSION)
    await connection.execute(SQL["mend"])
    if "tidewire_members" in missing:
        await connection.execute(SQL["forget_nodes"])  # they join their members again
    if missing & {"tidewire_channels", "tidewire_publications"}:  # a new counter may get an old one's id
        await connection.execute(SQL["empty"])
    if before == VERSION and any(name.startswith("trigger") and name != _NUMBERS for name in missing):
        await connection.execute(SQL["new_era"], None)  # nobody knows which publications were removed meanwhile


async def mend(connection: Any) -> None:
    """Prepare the schema again where it is of this version and something of it was removed or changed."""
    missing = await _missing(connection)
    if missing and await _version(connection, missing, newest=sys.maxsize) in (None, VERSION):
        await prepare(connection)


async def _drop(connection: Any, names: Iterable[str]) -> None:
    """Drop those of some tables that are there: one that has lost or changed a column."""
    for table in set(names).intersection(TABLES):
        await connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")


async def _make(connection: Any) -> set[str]:
    """Make tables and functions, in the place of those that cannot be mended; return the tables that were lost so."""
    lost: set[str] = set()
    while True:
        try:
            async with connection.transaction():
                await connection.execute(_TABLES)
            break
        except asyncpg.UniqueViolationError as error:  # its key was dropped, and rows were added
            if error.table_name in lost or error.table_name not in TABLES:
                raise
            lost.add(error.table_name)
            await _drop(connection, lost)
    for part in _PARTS:
        try:
            async with connection.transaction():
                await connection.execute(part)
        except (
            asyncpg.InvalidFunctionDefinitionError
        ) as error:  # it returns something else, or names its arguments otherwise
            found = re.search(r"DROP FUNCTION (.+\))", error.hint or "")
            if found is None:
                raise
            await _replace(connection, found[1], part)
    return lost


async def _replace(connection: Any, function: str, part: str) -> None:
    """Make a function in the place of one that has to be dropped first, with the grants that this one had."""
    grants = await connection.fetchval(SQL["grants"], function)
    try:
        await connection.execute(f"DROP FUNCTION {function}")
    except asyncpg.DependentObjectsStillExistError as error:
        raise ConfigurationError(
            f"tidewire has to make its function {function} anew, but {error.detail}; "
            "drop that, run `tidewire migrate`, and make it again"
        ) from error
    await connection.execute(part)
    if grants is not None:
        await connection.execute(grants)


async def _missing(connection: Any) -> set[str]:
    """Return the missing tables, functions, indexes and triggers, and the tables with a missing column.

    A column that is required and not filled is returned as the statement that mends it.
    """
    triggers, columns = zip(*_TRIGGERS, strict=True), zip(*_COLUMNS, strict=True)
    rows = await connection.fetch(SQL["missing"], TABLES, FUNCTIONS, BODIES, _INDEXES, *triggers, *columns)
    return {row["name"] for row in rows}


async def _version(connection: Any, missing: set[str], newest: int = VERSION) -> int | None:
    """Return the version of the schema that is there; raises ConfigurationError for one that is newer."""
    if "tidewire_store" in missing:
        return None
    try:
        found: int | None = await connection.fetchval(SQL["version"])  # None: an operator has emptied the table
    except asyncpg.UndefinedTableError:  # removed at this moment
        return None
    if found is not None and found > newest:
        raise ConfigurationError(
            f"the database has version {found} of tidewire's schema, and this tidewire knows {VERSION}; update it"
        )
    return found


async def enter(connection: Any, seen: Seen | None) -> str:
    """Begin a session that publishes or listens, on the data that there is now; return the identity of that data.

    Where the data has been replaced, or is older than `seen`, a new era begins.
    """
    row = await connection.fetchrow(SQL["enter"], *((None, None) if seen is None else (seen.place, seen.identity)))
    return str(row["identity"])
