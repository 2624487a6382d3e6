"""How the end of a block with a connection is told to its client, and which exceptions go on to the application."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple, TypeVar

from starlette.exceptions import HTTPException, WebSocketException
from starlette.websockets import WebSocketDisconnect

from tidewire.errors import (
    CommandError,
    ConnectionClosed,
    CutOff,
    Disconnect,
    LimitExceeded,
    PublishError,
    StateFailed,
    StoreUnavailable,
)
from tidewire.protocols.close_codes import (
    INTERNAL_ERROR,
    NORMAL,
    POLICY,
    SHUTDOWN,
    STORE_AWAY,
    TOO_MANY,
    close_reason,
)
from tidewire.support.log_limit import LogLimit

__all__ = ("Ending", "has_handler", "judge")

logger = logging.getLogger("tidewire")
#: Clients could cause these lines as often as they like.
_log_limit = LogLimit()

#: Failures that may pass: the client is told so, and comes back.
_PASSING = (StoreUnavailable, PublishError, StateFailed, CutOff)
E = TypeVar("E", bound=Exception)


class Ending(NamedTuple):
    """The code that the client is told, the exception that goes on, whether the application failed, and an answer."""

    disconnect: Disconnect
    error: BaseException | None = None
    failed: bool = False
    #: Sent to the client before the close, in its protocol.
    answer: CommandError | None = None


def judge(error: BaseException, *, has_ended: bool) -> Ending:
    """Return the ending that an exception of a block means for its connection, which may have ended before.

    The end of another task, for which the block has waited, is a failure of the block; that of its own is the server's.
    A client that left is no error, inside of a group of exceptions neither. A failure that may
    pass, as an outage of the store, and a CommandError go on as starlette's WebSocketException: dependencies roll
    back, and the client is told, without a traceback.
    """
    rest = _without(error, (ConnectionClosed, WebSocketDisconnect) if has_ended else (WebSocketDisconnect,))
    if rest is None:
        return Ending(NORMAL)
    if not isinstance(rest, Exception):
        task = asyncio.current_task()
        is_foreign = isinstance(rest, asyncio.CancelledError) and task is not None and not task.cancelling()
        return Ending(INTERNAL_ERROR, rest, failed=True) if is_foreign else Ending(SHUTDOWN, rest)
    refused = _first(rest, WebSocketException)
    if refused is not None:
        disconnect = Disconnect(refused.code, refused.reason)
        if _without(rest, (WebSocketException, *_PASSING, CommandError)) is None:
            return Ending(disconnect, refused)
        return Ending(disconnect, rest, failed=True)
    if _without(rest, (*_PASSING, CommandError)) is None:
        return _logged_without_traceback(rest)
    return Ending(INTERNAL_ERROR, rest, failed=True)


def _logged_without_traceback(error: Exception) -> Ending:
    outage = _first(error, StoreUnavailable) or _first(error, PublishError)
    cause: Exception = (
        outage or _first(error, CommandError) or _first(error, StateFailed) or _first(error, CutOff) or error
    )
    answer = cause if isinstance(cause, CommandError) else None
    disconnect = STORE_AWAY if outage else Disconnect(STORE_AWAY.code, close_reason(str(cause)), STORE_AWAY.reconnect)
    if answer is not None:
        kind = TOO_MANY if isinstance(answer, LimitExceeded) else POLICY
        disconnect = Disconnect(kind.code, close_reason(str(answer)) or kind.reason, kind.reconnect)
    more = _log_limit.due(str(cause)[:100])
    if more is not None:
        logger.warning("a connection ends with code %d: %s%s", disconnect.code, cause, more)
    return Ending(disconnect, WebSocketException(disconnect.code, disconnect.reason), answer=answer)


def has_handler(scope: Any, error: BaseException) -> bool:
    """Return whether the application has a handler for an exception that can answer an open WebSocket."""
    if isinstance(error, HTTPException):
        logger.error(
            "an endpoint raised %r after its WebSocket was accepted, when no HTTP response is possible any more; "
            "the client gets code 1011; raise WebSocketException instead",
            error,
        )
        return False
    by_type, _ = scope.get("starlette.exception_handlers", ({}, {}))
    return any(class_ in by_type for class_ in type(error).__mro__)


def _without(error: BaseException, types: tuple[type[Exception], ...]) -> BaseException | None:
    """Return an exception, or a group of them, without those of some types."""
    if isinstance(error, BaseExceptionGroup):
        rest: BaseException | None = error.split(types)[1]
        return rest
    return None if isinstance(error, types) else error


def _first(error: BaseException, type_: type[E]) -> E | None:
    """Return the first exception of a type, also inside of groups."""
    if isinstance(error, type_):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _first(inner, type_)) is not None), None)
    return None
