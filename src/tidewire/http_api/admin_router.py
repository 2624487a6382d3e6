"""The admin page: its files, and the calls of the HTTP API for those who may administer."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from tidewire.http_api.api_router import api_router
from tidewire.http_api.calls import Calls

__all__ = ("admin_router",)

_UI = Path(__file__).parents[1] / "server" / "ui"
#: The files of the page; nothing else of the folder is served here.
_FILES = frozenset(
    {
        "css/base.css",
        "css/admin.css",
        "js/theme.js",
        "js/dom.js",
        *(f"js/admin/{name}.js" for name in ("main", "api", "charts", "lists", "actions", "words")),
        "icons.svg",
        "mark.svg",
    }
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def admin_router(calls: Callable[[], Calls], *, allowed: Any, page: Any | None, prefix: str) -> APIRouter:
    """Make the routes. `allowed` is the dependency of the calls, and `page` that of the page (None: it has no data)."""
    router = APIRouter(prefix=prefix, include_in_schema=False)
    guards = [page] if page is not None else []

    @router.get("", dependencies=guards)
    async def admin(request: Request) -> Response:
        base = escape(request.scope.get("root_path", "") + request.url.path.removeprefix(_root(request)), quote=True)
        text = (_UI / "admin.html").read_text().replace("{base}", base.rstrip("/"))
        return Response(text, media_type="text/html", headers=_HEADERS)

    @router.get("/ui/{path:path}", dependencies=guards)
    async def file(path: str) -> Response:
        if path not in _FILES:
            raise HTTPException(404)
        kind = "text/javascript" if path.endswith(".js") else mimetypes.guess_type(path)[0]
        return FileResponse(_UI / path, media_type=kind, headers=_HEADERS)

    # a caller that may is known by the dependency; the page of another site may not, with the cookies of one who may
    api = api_router(calls, key="", insecure=True, prefix="/api")
    router.include_router(api, dependencies=[allowed], include_in_schema=False)
    return router


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root
