"""`POST /api/…`: the HTTP API, protected by a key; without one it is off and answers 404 with the reason."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from tidewire.hub import Hub
from tidewire.rules.base import Authority
from tidewire.server.settings import HttpApiTable

__all__ = ("with_key", "without_key")

without_key: APIRouter = APIRouter()


@without_key.api_route("/api/{method}", methods=["GET", "POST"])
async def off(method: str) -> JSONResponse:
    """Return how to turn the API on."""
    detail = "the HTTP API is off: set http_api.key in tidewire.toml, or TIDEWIRE_HTTP_API__KEY"
    return JSONResponse({"detail": detail}, 404)


def with_key(table: HttpApiTable, hub: Hub, authority: Authority) -> APIRouter:
    """Return the routes as the settings want them."""
    return hub.api_router(
        key=table.key.get_secret_value(), insecure=table.insecure, error_mode=table.error_mode, authority=authority
    )
