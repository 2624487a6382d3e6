"""Identify a client by the application's own dependency, which is closed before the client is served."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import Depends
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocket

from tidewire.errors import ConfigurationError
from tidewire.rules.base import Identity
from tidewire.rules.parameters import classes_of, depends_of, hints_of
from tidewire.support.refusals import note_handshake
from tidewire.support.shown_value import shown

__all__ = ("Identify", "Name", "identified_by")

#: Returns the name of a user that is none.
Name = Callable[[Any], str]
#: Returns the identity of a client that connects.
Identify = Callable[[HTTPConnection], Awaitable[Identity | None]]
_FOUND = "tidewire.identity"


def identified_by(
    user: Callable[..., Any] | None, name: Name | None, see: Callable[[Any], None], *, unmet: tuple[type, ...]
) -> Identify:
    """Return a function that gives the identity that an application's own dependency finds; `see` gets the application.

    FastAPI keeps resources of a `yield` dependency until the endpoint returns, which is as long as the client stays.
    So `user` is resolved for an endpoint of its own that returns at once: one database session does not stay with each
    client. Its refusals are raised here, and `app.dependency_overrides` hold for it. Raises ConfigurationError for one
    that needs a connection of a kind that does not come, or not always (`unmet`).
    """

    async def nobody(connection: HTTPConnection) -> None:
        see(connection.scope.get("app"))  # the authority asks for a token, or accepts anonymous clients

    if user is None:
        return nobody
    _check_parameters(user, unmet)
    direct = takes_only_the_connection(user)
    routes: WeakKeyDictionary[Any, dict[tuple[type, str], ASGIApp]] = WeakKeyDictionary()

    async def endpoint(connection: HTTPConnection, who: Any = Depends(user)) -> Response:
        connection.scope[_FOUND] = _identity(who, name)
        return Response()

    async def ask(connection: HTTPConnection) -> Identity | None:
        if direct and user not in getattr(connection.app, "dependency_overrides", ()):
            return _identity(await user(connection), name)
        scope = dict(connection.scope)
        kind = APIWebSocketRoute if isinstance(connection, WebSocket) else APIRoute
        path = "".join(f"/{{{parameter}}}" for parameter in connection.path_params) or "/"  # those of a prefix, too
        known = routes.setdefault(connection.app, {})
        app = known.get((kind, path))
        if app is None:
            app = known[kind, path] = kind(path, endpoint, dependency_overrides_provider=connection.app).app
        scope.pop("starlette.exception_handlers", None)  # the outer endpoint answers exceptions
        on_socket = (connection.receive, connection.send) if isinstance(connection, WebSocket) else None
        await app(scope, *(on_socket or (_no_body, _unsent)))
        found: Identity | None = scope[_FOUND]
        return found

    async def identify(connection: HTTPConnection) -> Identity | None:
        see(connection.scope.get("app"))
        try:
            return await ask(connection)
        except (HTTPException, WebSocketException, RequestValidationError, WebSocketRequestValidationError) as error:
            status, why = _words_of(error)
            note_handshake(connection.scope, f"handshake_{status}", f"the dependency refuses: {why}")
            raise

    return identify


def _words_of(error: Exception) -> tuple[int, str]:
    """Return the status and the words by which FastAPI answers a handshake that a dependency refuses."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, WebSocketException):
        return 403, f"code {error.code} {error.reason}"
    return 403 if isinstance(error, WebSocketRequestValidationError) else 422, "a parameter is missing or wrong"


def takes_only_the_connection(user: Callable[..., Any]) -> bool:
    """Return whether a dependency needs nothing of FastAPI: a coroutine function of one `HTTPConnection`."""
    if not inspect.iscoroutinefunction(user):
        return False
    try:
        parameters = list(inspect.signature(user, eval_str=True).parameters.values())
    except (NameError, TypeError, ValueError):  # an annotation that names something local
        return False
    return (
        len(parameters) == 1
        and parameters[0].annotation is HTTPConnection
        and parameters[0].default is inspect.Parameter.empty
        and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    )


def _check_parameters(user: Callable[..., Any], unmet: tuple[type, ...]) -> None:
    """Raise ConfigurationError where a dependency, or one that it depends on, needs a connection of another kind."""
    if not callable(user):
        raise ConfigurationError(f"user={shown(user)} is none; write a dependency, as user=current_user")
    try:
        is_plain = inspect.isroutine(user) or inspect.isclass(user) or isinstance(user, partial)
        target: Any = user
        hints = hints_of(target if is_plain else target.__call__)
        parameters = inspect.signature(user).parameters.values()
    except (ConfigurationError, ValueError):  # an annotation names something local: FastAPI reads it as far as it can
        return
    for parameter in parameters:
        type_ = hints.get(parameter.name)
        depends = depends_of(parameter, type_)
        if depends is not None:
            _check_parameters(depends.dependency or next(iter(classes_of(type_)), object), unmet)
        elif parameter.default is inspect.Parameter.empty and any(map(unmet.__contains__, classes_of(type_))):
            raise ConfigurationError(
                f"the user dependency takes {parameter.name!r} as {classes_of(type_)[0].__name__}, but clients come by "
                "WebSockets and by requests; write HTTPConnection (from fastapi.requests), which is either"
            )


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _unsent(message: Message) -> None:
    """Send nothing: the outer endpoint answers."""


def _identity(found: Any, name: Name | None) -> Identity | None:
    """Return the identity in the value of a dependency; raises ConfigurationError for a value that names no user."""
    if found is None or isinstance(found, Identity):
        return found
    user = found if name is None else name(found)
    if not isinstance(user, str):
        raise ConfigurationError(
            f"the user dependency returned {type(found).__name__}; return the user's name, an Identity or None, "
            "or say client_router(name=…)"
        )
    return Identity(user, context=found) if user else None
