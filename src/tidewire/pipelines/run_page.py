"""The page of runs, to include in any FastAPI application beside the HTTP interface."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import FileResponse

from tidewire.errors import ConfigurationError

__all__ = ("page",)

#: The files of the ready server's pages.
_UI = Path(__file__).parents[1] / "server" / "ui"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
#: The folders of the page's files.
_PARTS = ("css/", "js/", "tidewire.js", "icons.svg", "mark.svg", "wave.svg")


def page(*, api: str = "/api/pipelines", home: str = "/") -> APIRouter:
    """Return the page's routes: `app.include_router(page(), prefix="/jobs")` shows it at `/jobs`.

    `api` is the prefix at which `router` is included, and `home` the target of the page's title. Raises
    ConfigurationError for an `api` that is no path.
    """
    if not api.startswith("/") or api.endswith("/") or '"' in api:
        raise ConfigurationError(f"api={api!r} is no path; write it as /api/pipelines, where router() is included")
    made = APIRouter(include_in_schema=False)

    async def show(request: Request) -> Response:
        mounted = request.scope.get("root_path", "")
        root = request.url.path.rstrip("/")
        text = (_UI / "pipelines.html").read_text(encoding="utf-8")
        text = text.replace('content="/api/pipelines"', f'content="{mounted}{api}"')
        text = text.replace('content="/connection/websocket"', 'content=""')  # no notices of runs are published here
        text = text.replace("/ui/", f"{root}/ui/").replace("<!-- pages -->", "").replace('href="/"', f'href="{home}"')
        return Response(text, media_type="text/html", headers=_HEADERS)

    async def part(file: str) -> Response:
        path = (_UI / file).resolve()
        if not file.startswith(_PARTS) or not path.is_relative_to(_UI) or not path.is_file():
            raise HTTPException(404)
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
        return FileResponse(path, media_type=kind, headers=_HEADERS)

    made.add_api_route("", show, methods=["GET", "HEAD"])
    made.add_api_route("/ui/{file:path}", part, methods=["GET", "HEAD"])
    return made
