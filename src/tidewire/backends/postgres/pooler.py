"""Finds out whether sessions are ours alone: a pooler in transaction mode gives each transaction any of its own."""

from __future__ import annotations

from typing import Any

import asyncpg

from tidewire.errors import ConfigurationError

__all__ = ("check_session", "is_pooled", "refusal")

#: Looks: another client of the pooler may take a session between two statements of ours.
_LOOKS = 3
#: Answers about prepared statements of another session.
_STRANGE = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


def refusal(shown: str) -> ConfigurationError:
    """Return the error of a pooler that does not keep sessions."""
    return ConfigurationError(
        f"{shown} is behind a pooler that does not keep sessions, which LISTEN needs; "
        "set pool_mode = session there, with PgBouncer's own server_reset_query, or connect directly"
    )


def is_pooled(error: BaseException) -> bool:
    """Return whether only a pooler that does not keep sessions answers so."""
    return isinstance(error, _STRANGE) or "statement pooling mode" in str(error)


async def check_session(one: Any, other: Any, shown: str) -> None:
    """Raise ConfigurationError if two connections have had one session of the server, one after the other.

    A pooler in transaction mode gives the second connection the session that the first one has just released.
    """
    try:
        for _ in range(_LOOKS):
            before = await one.fetchval(_WHICH)
            async with other.transaction():
                if await other.fetchval(_WHICH) == before or await one.fetchval(_WHICH) != before:
                    raise refusal(shown)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if is_pooled(error):
            raise refusal(shown) from error
        raise


_WHICH = "SELECT pg_backend_pid()"
