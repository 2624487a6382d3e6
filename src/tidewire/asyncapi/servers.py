"""The servers of a document, from the routes of an application, and the credentials that each asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.routing import NoMatchFound

from tidewire.errors import ConfigurationError
from tidewire.support.shown_value import shown

__all__ = ("security_of", "servers_of")

#: The name of a route, its path, its protocol, and its endpoint.
_KINDS = {
    "tidewire:websocket": (
        "/connection/websocket",
        "centrifuge",
        "ws",
        "the Centrifuge protocol over a WebSocket: the SDKs, tidewire.js",
    ),
    "tidewire:http_stream": (
        "/connection/http_stream",
        "http_stream",
        "http",
        "the Centrifuge protocol over an endless response",
    ),
    "tidewire:sse": ("/connection/sse", "sse", "http", "the Centrifuge protocol over server-sent events"),
    "tidewire:chat": ("", "chat", "ws", "the dialect of the server's chat"),
}
_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "the token that a client sends with its connect command",
}


def servers_of(base: str, app: Starlette | None, schemes: Iterable[str]) -> dict[str, Any]:
    """Return the servers at a URL: those that an application has routes for; without an application, all."""
    url = _url_of(base)
    secure = url.scheme in ("https", "wss")
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes]
    servers: dict[str, Any] = {}
    for route, (usual, name, protocol, description) in _KINDS.items():
        path = usual if app is None else _path_of(app, route)
        if not path:
            continue
        servers[name] = {
            "host": url.netloc,
            "protocol": f"{protocol}s" if secure else protocol,
            "pathname": url.path.rstrip("/") + path,
            "description": description,
        }
        if security:
            servers[name]["security"] = security
    return servers


def _url_of(base: object) -> SplitResult:
    if isinstance(base, str) and base.isprintable() and " " not in base:
        with contextlib.suppress(ValueError):  # its brackets, or its port
            url = urlsplit(base)
            if url.scheme in ("http", "https", "ws", "wss") and url.hostname and url.port != 0:
                return url
    raise ConfigurationError(f"base_url={shown(base)} is none; write it as 'https://example.org'")


def _path_of(app: Starlette, route: str) -> str | None:
    try:
        return str(app.url_path_for(route))
    except NoMatchFound:
        return None


def security_of(users: Iterable[Callable[..., Any]], *, takes_tokens: bool) -> dict[str, Any]:
    """Return the security schemes of the dependencies that identify clients, and of tokens in the protocol."""
    found: dict[str, Any] = {"token": _TOKEN} if takes_tokens else {}
    for user in users:
        # the description that FastAPI makes of a route with this dependency
        app = FastAPI()
        app.add_api_route("/", _nothing, dependencies=[Depends(user)])
        schemes = app.openapi().get("components", {}).get("securitySchemes", {})
        found |= {name.replace(" ", "_"): _scheme(scheme) for name, scheme in schemes.items()}
    return found


async def _nothing() -> None:
    """Return nothing."""


def _scheme(scheme: Mapping[str, Any]) -> dict[str, Any]:
    """Return a security scheme of OpenAPI as AsyncAPI has it."""
    made = dict(scheme)
    if made.get("type") == "apiKey":
        made["type"] = "httpApiKey"
    for flow in made.get("flows", {}).values():
        if isinstance(flow, dict) and "scopes" in flow:
            flow["availableScopes"] = flow.pop("scopes")
    return made
