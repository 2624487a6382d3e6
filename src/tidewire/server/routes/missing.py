"""The 404 page for browsers; programs get JSON, as from every FastAPI application."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse

from tidewire.http_api.page_files import page_of
from tidewire.server.routes.pages import PAGE_HEADERS
from tidewire.support.page_links import page_links

__all__ = ("add_missing",)


def add_missing(app: FastAPI, *, pages: Iterable[tuple[str, str]]) -> None:
    """Answer 404 with a page that links to the others if a browser asks."""
    text = page_of("missing.html", "").replace("{home}", "/").replace("<!-- pages -->", page_links(pages, ""))

    async def missing(request: Request, error: HTTPException) -> Response:
        if request.scope["type"] != "http" or "text/html" not in request.headers.get("accept", ""):
            return await http_exception_handler(request, error)
        known = error.detail != HTTPException(404).detail
        why = str(error.detail) if known else f"Nothing is at {request.url.path} on this server"
        return HTMLResponse(text.replace("{why}", escape(why[:1].upper() + why[1:])), 404, headers=PAGE_HEADERS)

    app.add_exception_handler(404, missing)  # type: ignore[arg-type]
