"""Refuses requests of foreign pages, for every HTTP route: one judgement of Host, Origin and fetch metadata."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from tidewire.sessions.origins import Origins

__all__ = ("SameSite",)


class SameSite:
    """ASGI middleware; WebSockets are judged by the same origins when the hub accepts them."""

    def __init__(self, app: ASGIApp, *, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] == "http" and not self._origins.allows(HTTPConnection(scope)):
            answer = JSONResponse({"detail": "a page of another site may not use this server; its log says more"}, 403)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)
