"""The pages of the server (`ui/`), with a content security policy that allows only our own files."""

from __future__ import annotations

import hashlib
import html
import inspect
import mimetypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tidewire.http_api.page_files import page_of
from tidewire.server.routes import tutorial as endpoints
from tidewire.server.settings import Settings
from tidewire.support.page_links import page_links

__all__ = ("PAGE_HEADERS", "add_pages", "listed_pages")

_UI = Path(__file__).parent.parent / "ui"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Browsers revalidate by the ETag, so that a page never mixes files of two versions of the server.
    "Cache-Control": "no-cache",
}
#: The address that each page of the tutorial speaks with.
_TUTORIAL: dict[str, tuple[Callable[..., Any], ...]] = {
    "echo": (endpoints.echo,),
    "items": (endpoints.get_cookie_or_token, endpoints.items),
    "chat": (endpoints.chat_room,),
    "channels": (),
}
_CHANNELS = """hub = Hub("sqlite:///chat.db")
app = FastAPI(lifespan=hub.lifespan)


@hub.channel("playground:{name}", presence=True, join_leave=True)
async def playground(name: str, user: str) -> bool:
    return True  # everybody may subscribe, publish and read


app.include_router(hub.client_router(user=current_user))
"""

# Operating systems differ in these types, and a browser refuses a module of another type.
for _suffix, _type in ((".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")):
    mimetypes.add_type(_type, _suffix)


class _Files(StaticFiles):
    """Files with their types, ETags and our headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


class _Page:
    """A page of `ui/` with the navigation over all pages, and the values that its server fills in."""

    def __init__(self, file: str, pages: Iterable[tuple[str, str]], path: str, python: str = "") -> None:
        text = page_of(file, "").replace("{home}", "/")
        text = text.replace(
            f'<a href="{path}">', f'<a href="{path}" aria-current="page">'
        )  # in the tutorial's chapters
        text = text.replace("<!-- pages -->", page_links(pages, path)).replace("<!-- python -->", html.escape(python))
        self._body = text.encode()
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> Response:
        """Send the page, or 304 to a browser that has it."""
        headers = {**PAGE_HEADERS, "ETag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._body, media_type="text/html", headers=headers)


def listed_pages(settings: Settings) -> list[tuple[str, str]]:
    """Return the pages of a server, by name and address; those for its operator only on a loopback server."""
    pages = [("Chat", "/")]
    pages += [("Pipelines", "/pipelines")] if settings.pipelines.enabled else []
    pages += [("Tutorial", "/tutorial")] if settings.serves_tutorial else []
    pages += [("Playground", "/playground")] if settings.serves_playground else []
    pages += [("Channels", "/asyncapi")]
    return pages + ([("Admin", "/admin"), ("API", "/docs"), ("Docs", "/manual")] if settings.is_loopback else [])


def add_pages(app: FastAPI, settings: Settings) -> None:
    """Serve the chat at `/`, the pipelines at `/pipelines`, all files at `/ui/`, and the tutorial's pages if wanted."""
    files = _Files(directory=_UI)
    router = APIRouter(include_in_schema=False)
    pages = listed_pages(settings)

    def page(path: str, file: str, python: str = "") -> None:
        made = _Page(file, pages, path, python)
        router.add_api_route(path, made.answer, methods=["GET", "HEAD"], name=file)

    async def icon(request: Request) -> Response:
        return await files.get_response("mark.svg", request.scope)

    page("/", "chat.html")
    page("/pipelines", "pipelines.html")
    router.add_api_route("/favicon.ico", icon, methods=["GET", "HEAD"])
    if settings.serves_tutorial:
        page("/tutorial", "tutorial/index.html")
        for name, functions in _TUTORIAL.items():
            python = "\n\n".join(inspect.getsource(function) for function in functions) or _CHANNELS
            page(f"/tutorial/{name}", f"tutorial/{name}.html", python)
    app.include_router(router)
    app.mount("/ui", files, name="ui")
