"""Answers errors of a hub's verbs in an application's own routes: a status and one sentence, without a traceback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextlib import suppress
from math import ceil
from typing import Any

from anyio import BrokenResourceError
from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from tidewire import errors as e
from tidewire.protocols.close_codes import POLICY, STORE_AWAY, close_reason
from tidewire.protocols.outages import sentence
from tidewire.support.log_limit import LogLimit

__all__ = ("answer_errors",)

logger = logging.getLogger("tidewire")
#: Clients could cause these lines as often as they like.
_log_limit = LogLimit()

#: Where the scope of a WebSocket keeps how far it has come.
_STAGE = "tidewire.stage"

#: The errors that are answered; subclasses of CommandError have statuses of their own.
_STATUSES: dict[type[Exception], int] = {
    e.CommandError: 400,
    e.InvalidMessage: 422,
    e.TokenExpired: 401,
    e.PermissionDenied: 403,
    e.UnknownChannel: 404,
    e.NotAvailable: 404,
    e.VersionConflict: 409,
    e.LimitExceeded: 429,
    e.RateLimited: 429,
    e.TemporaryFailure: 503,
    e.AlreadyStreaming: 409,
    e.EntryChanged: 409,
    e.PublishError: 503,
    e.StoreUnavailable: 503,
    e.StateFailed: 503,
    e.CutOff: 503,
}
_ANSWERED = (
    *(e.CommandError, e.AlreadyStreaming, e.EntryChanged, e.PublishError, e.StoreUnavailable),
    *(e.StateFailed, e.CutOff),
)
#: As Starlette says it, with an error of ours as its cause.
_TOO_LATE = "Caught handled exception, but response already started."


def answer_errors(app: object) -> None:
    """Answer the errors of verbs in the routes of an application, except where it has a handler of its own.

    It holds for those that it mounts, too: their errors would be answered with 500 there, and reach its own handlers
    when nothing can be answered any more.
    """
    if isinstance(app, Starlette):
        for one in _with_mounted(app):
            _answer_in(one)
        stack = app.middleware_stack
        if stack is None:
            app.add_middleware(_Logged)
        elif isinstance(stack, ServerErrorMiddleware) and not isinstance(stack.app, _Logged):
            stack.app = _Logged(stack.app)


def _with_mounted(app: Starlette) -> list[Starlette]:
    found, routes, seen = [app], list(app.routes), set[int]()
    while routes:
        mounted: Any = routes.pop()
        # a route, or a middleware around it; what other frameworks call so may lead in a circle
        while not isinstance(mounted, Starlette | Router) and id(mounted) not in seen and hasattr(mounted, "app"):
            seen.add(id(mounted))
            mounted = mounted.app
        if id(mounted) not in seen and isinstance(mounted, Starlette | Router):
            seen.add(id(mounted))
            routes.extend(mounted.routes)
            if isinstance(mounted, Starlette) and mounted is not app:
                found.append(mounted)
    return found


def _answer_in(app: Starlette) -> None:
    own = set(app.exception_handlers) - {Exception}
    added = [class_ for class_ in _ANSWERED if own.isdisjoint(class_.__mro__)]
    layer: Any = app.middleware_stack  # it is made before the lifespan begins, with the handlers of that moment
    while layer is not None and not isinstance(layer, ExceptionMiddleware):
        layer = getattr(layer, "app", None)
    for class_ in added:
        app.add_exception_handler(class_, _answer)
        if layer is not None:
            layer.add_exception_handler(class_, _answer)
    if added and layer is not None:
        layer.app = _Staged(layer.app)
    elif added:
        app.add_middleware(_Staged)


class _Staged:
    """Notes in the scope of a WebSocket which message its application saw or sent last.

    An error may reach a handler with another object than that on which the route has accepted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # no coroutine of its own: it would be resumed with the application's for each message
        if scope["type"] != "websocket" or _STAGE in scope:
            return self.app(scope, receive, send)
        stage = scope[_STAGE] = [""]  # copies of the scope share it

        async def noted(message: Message) -> None:
            stage[0] = message["type"]
            await send(message)

        async def received() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                stage[0] = message["type"]
            return message

        return self.app(scope, received, noted)


class _Logged:
    """Logs an error that comes after the answer of an HTTP request has begun, from a stream or a background task.

    It reaches no handler, but all middleware, which may have to roll back: this is around it. An event stream of
    FastAPI can raise because its client has gone, which any client can cause: that is no error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._request(scope, receive, send) if scope["type"] == "http" else self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = has_gone = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        async def received() -> Message:
            nonlocal has_gone
            message = await receive()
            has_gone = message["type"] == "http.disconnect"
            return message

        try:
            await self.app(scope, received, noted)
        except Exception as error:
            if has_gone and _is_cut(error):
                return
            ours = _ours(error)
            if ours is None or not has_begun:
                raise
            _log("%r failed with %d after its answer had begun: %s%s", scope, ours)


def _is_cut(error: BaseException) -> bool:
    """Return whether a stream within the server was cut, and nothing else failed."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cut(inner) for inner in error.exceptions)
    return isinstance(error, BrokenResourceError)


def _ours(error: BaseException) -> BaseException | None:
    """Return the error of ours that others have wrapped: Starlette, or groups in which there is nothing else."""
    if isinstance(error, BaseExceptionGroup):
        found = [_ours(inner) for inner in error.exceptions]
        return None if None in found else found[0]
    if isinstance(error, RuntimeError) and str(error) == _TOO_LATE and error.__cause__ is not None:
        return _ours(error.__cause__)
    return error if isinstance(error, _ANSWERED) else None


def _log(line: str, scope: Scope, error: BaseException) -> None:
    status = _status(error)
    more = _log_limit.due(f"{status} {error}"[:100])
    if more is not None:
        logger.warning(line, scope["path"], status, error, more)


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    status = _status(error)
    _log("%r is answered with %d: %s%s", connection.scope, error)
    detail = error.detail if isinstance(error, e.InvalidMessage) and error.problems else sentence(error)
    answer = JSONResponse({"detail": detail}, status, _retry_after(error, status))
    if not isinstance(connection, WebSocket):
        return answer
    await _end(connection, answer, (STORE_AWAY if status == 503 else POLICY).code, close_reason(sentence(error)))
    return None


async def _end(websocket: WebSocket, answer: JSONResponse, code: int, reason: str) -> None:
    """End a WebSocket outside of a block with its connection, which ends it itself."""
    [stage] = websocket.scope.get(_STAGE, ["websocket.accept"])
    if not stage and "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(answer)
    elif stage in ("", "websocket.accept", "websocket.send"):  # otherwise somebody has ended it
        with suppress(WebSocketDisconnect, OSError):
            await websocket.close(code, reason)  # before it is accepted, the server makes it a plain 403


def _status(error: BaseException) -> int:
    if isinstance(error, e.Refused) and error.number < 500:
        return error.number
    return next(_STATUSES[class_] for class_ in type(error).__mro__ if class_ in _STATUSES)


def _retry_after(error: Exception, status: int) -> dict[str, str] | None:
    if isinstance(error, e.RateLimited) and error.retry_after is not None:
        return {"Retry-After": str(ceil(error.retry_after))}
    return {"Retry-After": "5"} if status == 503 else None
