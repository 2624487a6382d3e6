"""The routes of the document, and of the page that shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

__all__ = ("asyncapi_router",)

_UI = Path(__file__).parent / "ui"
_FILES = {"page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def asyncapi_router(make: Callable[[Request], dict[str, Any]], *, path: str) -> APIRouter:
    """Make the routes `{path}.json` and `{path}`; `make` returns the document for a request."""
    router = APIRouter(include_in_schema=False)

    async def document(request: Request) -> Response:
        content = msgspec.json.encode(make(request))
        return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})

    async def page(request: Request) -> Response:
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
            f"connect-src 'self' {_socket(request)}; form-action 'none'; frame-ancestors 'none'"
        )
        text = (_UI / "page.html").read_text().replace("{path}", path.rpartition("/")[2])
        return Response(text, media_type="text/html", headers={**_HEADERS, "Content-Security-Policy": policy})

    async def file(name: str) -> Response:
        if name not in _FILES:
            return Response(status_code=404)
        return FileResponse(_UI / name, media_type=_FILES[name], headers=_HEADERS)

    router.add_api_route(f"{path}.json", document, methods=["GET", "HEAD"])
    router.add_api_route(path, page, methods=["GET", "HEAD"])
    router.add_api_route(f"{path}/{{name}}", file, methods=["GET", "HEAD"])
    return router


def _socket(request: Request) -> str:
    """Return the origin of the WebSockets beside a page: to some browsers it is not the page's own."""
    return f"{'wss' if request.url.scheme == 'https' else 'ws'}://{request.url.netloc}"
