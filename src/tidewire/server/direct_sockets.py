"""A shorter way to the WebSocket endpoints of a FastAPI application, where FastAPI does nothing but find the endpoint.

The first two WebSockets of a path go through the whole application. The route that the second one finds is judged. If
it qualifies, others of the same path go straight to its endpoint for some seconds, without middleware, the search for a
route and dependencies. Where each client has a path of its own, nothing is judged.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute, websocket_session
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from tidewire.server.same_site import SameSite

__all__ = ("DirectSockets",)

#: Seconds for which a way holds; the most paths that have one, because each may name a channel; and the most characters
#: of such a path, because clients invent them.
_HELD_SECONDS = 10.0
_PATHS = 1_000
_PATH_LENGTH = 500
#: Middleware that passes WebSockets on untouched.
_BLIND: frozenset[Any] = frozenset(
    class_.__call__ for class_ in (SameSite, CORSMiddleware, GZipMiddleware, BaseHTTPMiddleware)
)
#: The entries that an application adds to a scope, the same for all of one path, beside its parameters.
_FOUND = ("app", "router", "route", "endpoint", "starlette.exception_handlers")
#: Routes that take no WebSocket, and all routes that look at nothing but the path of a WebSocket.
_FOR_HTTP = (Route, APIRoute)
_BY_PATH = (*_FOR_HTTP, WebSocketRoute, APIWebSocketRoute, Mount)


class _Way(NamedTuple):
    """The endpoint of a path, how it is called, and what the application has put into the scope."""

    endpoint: Callable[..., Awaitable[None]]
    #: The name of the parameter that takes the WebSocket, and the values of the others.
    socket: str
    texts: Mapping[str, str]
    found: Mapping[str, Any]
    parameters: Mapping[str, Any]


class DirectSockets:
    """An ASGI application around one of FastAPI, which calls WebSocket endpoints itself where the result is the same.

    That is so if the endpoint takes only the WebSocket and texts of its path, its route and routers have no
    dependencies, and no middleware looks at WebSockets. Exceptions are answered as the application answers them.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._ways: dict[str, tuple[float, _Way | None]] = {}
        #: Paths whose route is judged at the end of this turn of the loop.
        self._judged: set[str] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a WebSocket, or pass it on."""
        if scope["type"] != "websocket" or scope["root_path"] or len(scope["path"]) > _PATH_LENGTH:
            return self._app(scope, receive, send)
        known = self._ways.get(scope["path"])
        if known is None:
            self._keep(scope["path"], 0.0, None)
        elif scope["path"] in self._judged:
            return self._wait(scope, receive, send)
        elif known[0] <= time.monotonic():
            return self._explore(scope, receive, send)
        elif known[1] is not None:
            return self._take(known[1], scope, receive, send)
        return self._app(scope, receive, send)

    async def _explore(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go through the whole application; judge its route in the next turn of the loop, by which it is found."""
        self._judged.add(scope["path"])
        asyncio.get_running_loop().call_soon(self._remember, scope["path"], scope)
        await self._app(scope, receive, send)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the judgement: of those who come at once, most would go the long way for as long as they live."""
        await asyncio.sleep(0)
        await self(scope, receive, send)

    def _remember(self, path: str, scope: Scope) -> None:
        self._judged.discard(path)
        self._keep(path, time.monotonic() + _HELD_SECONDS, self._judge(path, scope))

    def _keep(self, path: str, until: float, way: _Way | None) -> None:
        if len(self._ways) >= _PATHS:
            self._ways.clear()
        self._ways[path] = until, way

    def _judge(self, path: str, scope: Scope) -> _Way | None:
        """Return the short way to the endpoint that the application found, or None where it does more than find it.

        The route is matched anew, because the endpoint has begun and may have changed the scope or passed it on to
        other routes.
        """
        app, route = self._app, scope.get("route")
        if (
            type(route) is not APIWebSocketRoute
            or scope["root_path"]  # it was mounted
            or scope.get("app") is not app
            or "fastapi.telemetry" in scope
            or not _is_untouched(app)
            or not _is_plain(route)
        ):
            return None
        asked = {"type": "websocket", "path": path, "root_path": ""}
        if _first_match(app.routes, asked) is not route:
            return None
        texts = route.matches(asked)[1]["path_params"]
        taken = _taken(route.endpoint)
        if taken is None or not all(isinstance(texts.get(name), str) for name in taken[1]):
            return None
        found = {key: scope[key] for key in _FOUND if key in scope}
        return _Way(route.endpoint, taken[0], {name: texts[name] for name in taken[1]}, found, texts)

    async def _take(self, way: _Way, scope: Scope, receive: Receive, send: Send) -> None:
        scope.update(way.found, path_params=dict(way.parameters))
        socket = WebSocket(scope, receive, send)
        try:
            await way.endpoint(**way.texts, **{way.socket: socket})
        except Exception as error:
            await _answer(error, socket, receive, send)


async def _answer(error: Exception, socket: WebSocket, receive: Receive, send: Send) -> None:
    """Answer an exception as the application does: its handlers get the endpoint's WebSocket in its current state."""

    async def fail(session: WebSocket) -> None:
        vars(session).update(vars(socket))
        raise error

    by_class, by_status = socket.scope.get("starlette.exception_handlers", ({}, {}))
    await ExceptionMiddleware(websocket_session(fail), {**by_class, **by_status})(socket.scope, receive, send)


def _is_untouched(app: FastAPI) -> bool:
    """Return whether an application does nothing to a WebSocket before its routes, which look at the path alone."""
    return (
        not app.debug
        and "build_middleware_stack" not in vars(app)
        and isinstance(app.middleware_stack, ServerErrorMiddleware)
        and type(app).build_middleware_stack is FastAPI.build_middleware_stack
        and type(app).__call__ is FastAPI.__call__
        and all(_is_own(method, module) for method, module in _methods_on_the_way())
        and all(middleware.cls.__call__ in _BLIND for middleware in app.user_middleware)
        and type(app.router) is APIRouter
        and app.router.middleware_stack == app.router.app
        and _go_by_path(app.routes)
    )


def _methods_on_the_way() -> tuple[tuple[Callable[..., Any], str], ...]:
    return (
        (FastAPI.__call__, "fastapi.applications"),
        (FastAPI.build_middleware_stack, "fastapi.applications"),
        (Starlette.__call__, "starlette.applications"),
        (ExceptionMiddleware.__call__, "starlette.middleware.exceptions"),
        (APIRouter.app, "fastapi.routing"),
        (Router.__call__, "starlette.routing"),
        (APIRouter.__call__, "starlette.routing"),
        (APIWebSocketRoute.handle, "starlette.routing"),
    )


def _is_plain(route: APIWebSocketRoute) -> bool:
    """Return whether a route does nothing but call its endpoint; an application may have put something in between."""
    dependant = route.dependant
    return (
        not route.dependencies
        and not dependant.dependencies
        and dependant.call is route.endpoint
        and "handle" not in vars(route)
        and _is_own(route.app, "fastapi.routing")
    )


def _is_own(function: Callable[..., Any], module: str) -> bool:
    """Return whether a method is still that of its library; monitoring programs replace some."""
    return type(function) is FunctionType and function.__module__ == module and not hasattr(function, "__wrapped__")


def _go_by_path(routes: Iterable[BaseRoute]) -> bool:
    """Return whether all routes, those of included routers too, look only at the path of a WebSocket."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is None and type(route) not in _BY_PATH:
            return False
        if router is not None and (type(router) is not APIRouter or not _go_by_path(router.routes)):
            return False
    return True


def _first_match(routes: Iterable[Any], asked: Scope) -> object | None:
    """Return the first route that takes a path, of included routers too."""
    for route in routes:
        if hasattr(route, "effective_candidates"):
            found = _first_match(route.effective_candidates(), asked)
            if found is not None:
                return found
            continue
        own: BaseRoute = getattr(route, "starlette_route", None) or route  # with the prefix of an included router
        if type(own) not in _FOR_HTTP and own.matches(asked)[0] is not Match.NONE:
            return own
    return None


@lru_cache(maxsize=256)
def _taken(endpoint: Callable[..., Any]) -> tuple[str, tuple[str, ...]] | None:
    """Return which parameter of an endpoint takes the WebSocket, and which take texts; None if it has any other."""
    if not inspect.iscoroutinefunction(endpoint):
        return None
    try:
        parameters = inspect.signature(endpoint, eval_str=True).parameters.values()
    except (NameError, TypeError, ValueError):  # an annotation that names something local
        return None
    sockets, texts = [], []
    for parameter in parameters:
        if parameter.default is not parameter.empty or parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            return None
        if parameter.annotation is WebSocket:
            sockets.append(parameter.name)
        elif parameter.annotation is str:
            texts.append(parameter.name)
        else:
            return None
    return (sockets[0], tuple(texts)) if len(sockets) == 1 else None
