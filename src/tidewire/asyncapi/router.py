"""The routes of the document, and of the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import FileResponse

from tidewire.support.page_links import page_links

__all__ = ("asyncapi_router",)

_UI = Path(__file__).parents[1] / "server" / "ui"
#: The files of the page; nothing else of the folder is served here.
_FILES = {
    "icons.svg": "image/svg+xml",
    "mark.svg": "image/svg+xml",
    **{f"css/{name}.css": "text/css" for name in ("base", "status", "asyncapi")},
    **{f"js/{name}.js": "text/javascript" for name in ("theme", "dom", "text")},
    **{f"js/asyncapi/{name}.js": "text/javascript" for name in ("main", "client", "document", "schema", "trying")},
}
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def asyncapi_router(
    make: Callable[[Request], dict[str, Any]], *, path: str, pages: Iterable[tuple[str, str]] = ()
) -> APIRouter:
    """Make the routes `{path}.json` and `{path}`; `make` returns the document for a request.

    The page leads to the others, which are given by name and address.
    """
    router = APIRouter(include_in_schema=False)
    base = escape(path.rpartition("/")[2], quote=True)
    known = tuple(pages)

    async def document(request: Request) -> Response:
        content = msgspec.json.encode(make(request))
        return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})

    async def page(request: Request) -> Response:
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
            f"connect-src 'self' {_socket(request)}; form-action 'none'; frame-ancestors 'none'"
        )
        text = (_UI / "asyncapi.html").read_text(encoding="utf-8").replace("{base}", base)
        text = text.replace("<!-- pages -->", page_links(known, path))
        return Response(text, media_type="text/html", headers={**_HEADERS, "Content-Security-Policy": policy})

    async def file(name: str) -> Response:
        if name not in _FILES:
            raise HTTPException(404)
        return FileResponse(_UI / name, media_type=_FILES[name], headers=_HEADERS)

    router.add_api_route(f"{path}.json", document, methods=["GET", "HEAD"])
    router.add_api_route(path, page, methods=["GET", "HEAD"])
    router.add_api_route(f"{path}/ui/{{name:path}}", file, methods=["GET", "HEAD"])
    return router


def _socket(request: Request) -> str:
    """Return the origin of the WebSockets beside a page: to some browsers it is not the page's own."""
    return f"{'wss' if request.url.scheme == 'https' else 'ws'}://{request.url.netloc}"
