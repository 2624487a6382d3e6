"""The files of a page that a router serves, at any prefix at which an application includes it."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from tidewire.support.page_links import page_links

__all__ = ("UI", "add_page", "page_of")

#: The folder of the pages.
UI = Path(__file__).parents[1] / "server" / "ui"
#: The files that all pages share.
_SHARED = ("css/base.css", "js/theme.js", "js/dom.js", "icons.svg", "mark.svg")
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def add_page(
    router: APIRouter,
    page: str,
    files: Iterable[str],
    *,
    pages: Iterable[tuple[str, str]],
    guards: list[Any],
    data: Callable[[], Any] = dict,
) -> None:
    """Add a page of `ui/` at the router's prefix, with its files below `ui/` there; nothing else of the folder.

    The page links to others, which are given by name and address; `data` returns its first content. It reaches its
    own files relative to its address, so that a proxy may serve it below another path.
    """
    served = frozenset((*_SHARED, *files))
    known = tuple(pages)
    home = known[0][1] if known else ""

    @router.api_route("", methods=["GET", "HEAD"], dependencies=guards)
    async def show(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        path = root + request.url.path.removeprefix(root)
        base = escape(path.rpartition("/")[2], quote=True)
        text = page_of(page, base)
        text = text.replace("{home}", escape(home or base)).replace("{data}", escape(json.dumps(data())))
        text = text.replace("<!-- pages -->", page_links(known, path))
        return Response(text, media_type="text/html", headers={**_HEADERS, "Content-Security-Policy": _policy(request)})

    @router.api_route("/ui/{path:path}", methods=["GET", "HEAD"], dependencies=guards)
    async def file(path: str) -> Response:
        if path not in served:
            raise HTTPException(404)
        kind = "text/javascript" if path.endswith(".js") else mimetypes.guess_type(path)[0]
        return FileResponse(UI / path, media_type=kind, headers=_HEADERS)


def page_of(page: str, base: str) -> str:
    """Return a page of `ui/` with the head, the top and the chapters that pages share; its files are below `base`."""
    text = (UI / page).read_text(encoding="utf-8")
    for part in ("head", "top", "tutorial/chapters"):
        text = text.replace(f"    <!-- {part} -->\n", (UI / f"{part}.html").read_text(encoding="utf-8"))
    return text.replace("{base}", base)


def _policy(request: Request) -> str:
    """Allow the page's own files and calls; to some browsers its WebSockets are another origin."""
    socket = f"{'wss' if request.url.scheme == 'https' else 'ws'}://{request.url.netloc}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {socket}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
