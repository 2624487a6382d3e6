"""`/docs`: the HTTP API described by the server itself, with nothing from elsewhere and no script."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from tidewire.http_api import models as m
from tidewire.http_api.calls import METHODS
from tidewire.server.routes.manual_site import manual_page
from tidewire.server.routes.pages import PAGE_HEADERS
from tidewire.support.page_links import page_links

__all__ = ("api_docs",)

_ON = (
    '<p class="lead">Each call is a POST with the header <code>X-API-Key</code>. '
    'The same as JSON: <a href="/openapi.json">/openapi.json</a>.</p>'
)
_OFF = (
    '<p class="lead">The HTTP API is off: set <code>http_api.key</code> in <code>tidewire.toml</code>, or '
    "<code>TIDEWIRE_HTTP_API__KEY</code>. Its calls are below.</p>"
)
#: Stands for the address at which the reader has found the page.
_ADDRESS = "http://127.0.0.1:8000/"


def api_docs(*, is_on: bool, pages: Iterable[tuple[str, str]] = ()) -> APIRouter:
    """Make the route of the page, which leads to the others."""
    methods = "\n".join(_method(name, method.request) for name, method in METHODS.items())
    contents = "<h2>Calls</h2>" + "".join(f'<a href="#{name}">{name}</a>' for name in METHODS)
    body = f"<h1>HTTP API</h1>{_ON if is_on else _OFF}{methods}"
    page = manual_page("HTTP API", page_links(pages, "/docs"), contents, body)
    router = APIRouter(include_in_schema=False)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page.replace(_ADDRESS, escape(str(request.base_url))), headers=PAGE_HEADERS)

    router.add_api_route("/docs", docs, methods=["GET", "HEAD"])
    return router


def _method(name: str, request: type[m.Request]) -> str:
    schema = request.model_json_schema()
    required = schema.get("required", ())
    properties = sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required)
    rows = "\n".join(
        f"<tr><td><code>{escape(field)}</code>{' *' if field in required else ''}</td>"
        f"<td>{escape(_type(shape))}</td><td>{escape(shape.get('description', ''))}</td></tr>"
        for field, shape in properties
    )
    body = {field: _example(shape) for field, shape in properties if field in required or "examples" in shape}
    call = f"curl -H 'X-API-Key: …' -d '{json.dumps(body)}' {_ADDRESS}api/{name}"
    return (
        f'<section id="{name}"><h2>POST /api/{name}</h2><p>{escape(request.__doc__ or "")}</p>'
        f'<table>{rows}</table><pre class="wraps"><code>{escape(call)}</code></pre></section>'
    )


def _type(shape: dict[str, Any]) -> str:
    kinds = [shape, *shape.get("anyOf", ())]
    return " or ".join(kind["type"] for kind in kinds if kind.get("type", "null") != "null") or "any JSON"


def _example(shape: dict[str, Any]) -> Any:
    examples = shape.get("examples")
    if examples:
        return examples[0]
    return {"array": [], "object": {}, "integer": 1, "boolean": True}.get(shape.get("type", ""), "room:1")
