"""Explains failures of the server: whether it is away, whether a publication was surely not kept, how to mend it."""

from __future__ import annotations

import socket

import asyncpg

from tidewire.backends.postgres.pooler import is_pooled, refusal
from tidewire.backends.postgres.schema import FILLED
from tidewire.errors import ConfigurationError, StoreUnavailable, TidewireError

__all__ = ("FAILURES", "explain", "is_away", "is_certain", "is_damaged", "opening_error")

#: Everything that a call of the server raises; a pooler may have been set otherwise while we use it.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ConfigurationError)
#: The connection is gone, or another server must be looked for.
_GONE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)
#: The connection works, but the database behind it is not, or no longer, our store.
_CHANGED = (
    ConfigurationError,  # found out about a session before it is used
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.NoDataFoundError,
    asyncpg.InvalidColumnReferenceError,  # a key was dropped
    asyncpg.DatatypeMismatchError,
)
#: The counter of a channel does not belong to its publications, or a sequence to its table.
_DAMAGED = (
    asyncpg.UniqueViolationError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.SequenceGeneratorLimitExceededError,
)
#: Errors that waiting does not mend.
_UNUSABLE = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
)


def _is_bad_argument(error: BaseException) -> bool:
    """The driver refused a value before it was sent."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


def is_away(error: BaseException) -> bool:
    """After this error the server has to be found again before anything else is tried."""
    if isinstance(error, asyncpg.NotNullViolationError):  # a column has lost its default
        return error.column_name in FILLED
    return isinstance(error, (*_GONE, *_CHANGED)) and not _is_bad_argument(error)


def is_damaged(error: BaseException | None) -> bool:
    """After this error the counters of channels have to be mended (statements.sql): an operator has changed them."""
    return isinstance(error, _DAMAGED)


def is_certain(error: BaseException) -> bool:
    """After this answer nothing of the statement was kept, for sure."""
    return not isinstance(error, _GONE) or _is_bad_argument(error)


def explain(error: BaseException, shown: str) -> str:
    """Return one line with the error, its reason and its remedy; `shown` names the server, without a password."""
    match error:
        case TidewireError():
            return str(error)
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"{shown} refused the login; check the user, the password and pg_hba.conf"
        case asyncpg.InvalidCatalogNameError():
            return f"{shown} has no such database; make it with `createdb`"
        case asyncpg.InsufficientPrivilegeError():
            return f"{shown}: {error}; run `tidewire migrate` as the owner of the schema, or GRANT the privilege"
        case asyncpg.ReadOnlySQLTransactionError():
            return f"{shown} is a standby or read-only; name the primary, or add target_session_attrs=primary"
        case asyncpg.TooManyConnectionsError():
            return f"{shown} has no connection left; raise max_connections (a node takes up to 8)"
        case asyncpg.DiskFullError():
            return f"the disk of {shown} is full; free some space: nothing that was acknowledged is lost"
        case asyncpg.LockNotAvailableError():
            return f"another session of {shown} holds a lock on tidewire's tables; let it finish its transaction"
        case asyncpg.QueryCanceledError():
            return f"{shown} was too slow for one statement; see whether it is overloaded"
        case _ if isinstance(error, _CHANGED):
            return f"{shown} has lost tidewire's tables ({error}); they are made again"
        case asyncpg.InvalidSchemaNameError():
            return f"{shown} has no schema in which tidewire's tables could be; make it with CREATE SCHEMA"
        case asyncpg.UniqueViolationError() | asyncpg.NumericValueOutOfRangeError():
            return f"{shown}: the counter of a channel was changed ({error}); it is mended, try again"
        case asyncpg.SequenceGeneratorLimitExceededError():
            return f"{shown}: a sequence was changed ({error}); it is mended, try again"
        case TimeoutError():
            return f"{shown} does not answer; see if it hangs, or if the network is cut"
        case ConnectionError() | socket.gaierror() | OSError(errno=None):
            return f"{shown} cannot be reached ({error}); see that it runs there"
        case asyncpg.InternalClientError():  # the driver's words for a session that has ended under it
            return f"{shown} has ended the session; its log says why"
        case _ if is_pooled(error):
            return str(refusal(shown))
    reason = str(error).partition("\n")[0] or type(error).__name__
    return f"{shown} cannot be used: {reason}"


def opening_error(error: BaseException, shown: str) -> TidewireError:
    """Return the error that `start` raises when the store cannot be opened."""
    if isinstance(error, TidewireError):
        return error
    is_unusable = isinstance(error, _UNUSABLE) or _is_bad_argument(error)
    return (ConfigurationError if is_unusable else StoreUnavailable)(explain(error, shown))
