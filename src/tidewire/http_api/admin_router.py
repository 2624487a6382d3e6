"""The admin page: its files, and the calls of the HTTP API for those who may administer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter

from tidewire.http_api.api_router import api_router
from tidewire.http_api.calls import Calls
from tidewire.http_api.page_files import add_page

__all__ = ("admin_router",)

_SCRIPTS = ("main", "api", "charts", "lists", "actions", "words")


def admin_router(
    calls: Callable[[], Calls], *, allowed: Any, page: Any | None, prefix: str, pages: Iterable[tuple[str, str]]
) -> APIRouter:
    """Make the routes. `allowed` is the dependency of the calls, and `page` that of the page (None: it has no data)."""
    router = APIRouter(prefix=prefix, include_in_schema=False)
    files = ("css/admin.css", *(f"js/admin/{name}.js" for name in _SCRIPTS))
    add_page(router, "admin.html", files, pages=pages, guards=[page] if page is not None else [])
    # a caller that may is known by the dependency; the page of another site may not, with the cookies of one who may
    api = api_router(calls, key="", insecure=True, prefix="/api")
    router.include_router(api, dependencies=[allowed], include_in_schema=False)
    return router
