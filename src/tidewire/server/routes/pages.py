"""The pages of the server (`ui/`), with a content security policy that allows only our own files."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ("add_pages",)

_UI = Path(__file__).parent.parent / "ui"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Browsers revalidate by the ETag, so that a page never mixes files of two versions of the server.
    "Cache-Control": "no-cache",
}
_TUTORIAL = ("echo", "items", "chat", "channels")

# Operating systems differ in these types, and a browser refuses a module of another type.
for _suffix, _type in ((".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")):
    mimetypes.add_type(_type, _suffix)


class _Files(StaticFiles):
    """Files with their types, ETags and our headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def add_pages(app: FastAPI, *, tutorial: bool) -> None:
    """Serve the chat at `/`, the pipelines at `/pipelines`, all files at `/ui/`, and the tutorial's pages if wanted."""
    files = _Files(directory=_UI)
    router = APIRouter(include_in_schema=False)

    def page(path: str, file: str) -> None:
        async def answer(request: Request) -> Response:
            return await files.get_response(file, request.scope)

        router.add_api_route(path, answer, methods=["GET", "HEAD"], name=file)

    page("/", "chat.html")
    page("/pipelines", "pipelines.html")
    page("/favicon.ico", "mark.svg")
    if tutorial:
        page("/tutorial", "tutorial/index.html")
        for name in _TUTORIAL:
            page(f"/tutorial/{name}", f"tutorial/{name}.html")
    app.include_router(router)
    app.mount("/ui", files, name="ui")
