"""A shorter way to the WebSockets of the Centrifuge protocol: no search for a route, no dependencies around them."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, websocket_session
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ("DirectSockets",)


class DirectSockets:
    """ASGI middleware of our own server, behind all that judges WebSockets: calls the endpoints of some routes itself.

    They have a path without parameters, and no dependency but the WebSocket; exceptions are handled as the application
    handles them. A path with a `root_path` before it goes the usual way.
    """

    def __init__(self, app: ASGIApp, *, application: FastAPI, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._endpoints = {
            route.path: ExceptionMiddleware(websocket_session(route.endpoint), application.exception_handlers)
            for route in routes
            if isinstance(route, APIWebSocketRoute) and not route.dependencies and not route.param_convertors
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, or pass it on."""
        found = self._endpoints.get(scope["path"]) if scope["type"] == "websocket" else None
        await (self._app if found is None else found)(scope, receive, send)
