"""`/manual`: the documentation of this version, served by the server itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from html import escape
from itertools import groupby

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import HTMLResponse

from tidewire.http_api.page_files import page_of
from tidewire.server.documentation import documentation
from tidewire.server.manual_pages import Manual
from tidewire.server.routes.pages import PAGE_HEADERS
from tidewire.support.page_links import page_links

__all__ = ("manual", "manual_page")

_PATH = "/manual"
_FOLDERS = {"": "Start", "tutorial": "Learn", "howto": "Do", "reference": "Look up", "explanation": "Understand"}


def manual(*, pages: Iterable[tuple[str, str]]) -> APIRouter:
    """Make the routes of the pages, which lead to the other pages of the server."""
    links = page_links(pages, _PATH)
    router = APIRouter(include_in_schema=False)

    async def show(name: str = "README", q: str = "") -> Response:
        made = _manual()
        body = _results(made, q) if q else made.html(name)
        if body is None:
            raise HTTPException(404, f"there is no page {name!r} in {_PATH}")
        title = "Search" if q else made.titles.get(name, "Documentation")
        text = manual_page(title, links, _contents(made, made.address(name)), body, q=q)
        return HTMLResponse(text, headers=PAGE_HEADERS)

    router.add_api_route(_PATH, show, methods=["GET", "HEAD"])
    router.add_api_route(f"{_PATH}/{{name:path}}", show, methods=["GET", "HEAD"])
    return router


def manual_page(title: str, links: str, contents: str, body: str, *, q: str = "") -> str:
    """Return a page with contents beside its body; all but the title and the search are HTML."""
    text = page_of("manual.html", "").replace("{home}", "/").replace("{title}", escape(title))
    text = text.replace("{q}", escape(q, quote=True))
    for part, html in {"pages": links, "contents": contents, "body": body}.items():
        text = text.replace(f"<!-- {part} -->", html)
    return text


@cache
def _manual() -> Manual:
    return Manual(documentation(), path=_PATH)


def _contents(made: Manual, current: str) -> str:
    return "".join(
        f"<h2>{_FOLDERS.get(folder, folder.capitalize())}</h2>" + "".join(_link(made, name, current) for name in group)
        for folder, group in groupby(made.titles, key=_folder)
    )


def _link(made: Manual, name: str, current: str) -> str:
    address = made.address(name)
    mark = ' aria-current="page"' if address == current else ""
    return f'<a href="{address}"{mark}>{escape(made.titles[name])}</a>'


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _results(made: Manual, q: str) -> str:
    found = made.search(q)
    rows = "".join(
        f'<li><a href="{made.address(one.name)}">{escape(one.title)}</a><p class="hint">{escape(one.excerpt)}</p></li>'
        for one in found
    )
    count = (
        "No page has all these words. Try fewer, or others."
        if not found
        else "1 page"
        if len(found) == 1
        else f"{len(found)} pages"
    )
    return f'<h1>“{escape(q)}”</h1><p class="lead">{count}</p><ol class="found">{rows}</ol>'
