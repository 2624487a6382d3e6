"""A request without an upgrade at a path that speaks WebSocket only: 426 with one sentence, instead of 404."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Match

__all__ = ("not_found",)

_TEXT = "this address speaks WebSocket; connect to it with a WebSocket client, by ws:// or wss://\n"


async def not_found(request: Request, error: Exception) -> Response:
    """Answer a request that no route takes: 426 where a WebSocket would be taken, 404 elsewhere."""
    assert isinstance(error, HTTPException)
    if request.method in ("GET", "HEAD") and _speaks_websocket(request):
        return PlainTextResponse(_TEXT, 426, {"Upgrade": "websocket", "Connection": "Upgrade"})
    return await http_exception_handler(request, error)


def _speaks_websocket(request: Request) -> bool:
    scope: dict[str, Any] = {**request.scope, "type": "websocket"}
    return any(route.matches(scope)[0] is not Match.NONE for route in request.app.router.routes)
