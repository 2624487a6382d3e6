"""The routes of the AsyncAPI document, and of the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from tidewire.http_api.page_files import add_page

__all__ = ("asyncapi_router",)

_SCRIPTS = ("main", "client", "document", "schema", "trying")
_FILES = ("css/status.css", "css/asyncapi.css", "js/text.js", *(f"js/asyncapi/{name}.js" for name in _SCRIPTS))


def asyncapi_router(
    make: Callable[[Request], dict[str, Any]], *, path: str, pages: Iterable[tuple[str, str]] = ()
) -> APIRouter:
    """Make the routes `{path}.json` and `{path}`; `make` returns the document for a request.

    The page links to the others, which are given by name and address.
    """
    router = APIRouter(include_in_schema=False)

    async def document(request: Request) -> Response:
        content = msgspec.json.encode(make(request))
        return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})

    router.add_api_route(f"{path}.json", document, methods=["GET", "HEAD"])
    page = APIRouter(prefix=path)
    add_page(page, "asyncapi.html", _FILES, pages=pages, guards=[])
    router.include_router(page)
    return router
