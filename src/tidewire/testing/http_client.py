"""Requests to the application's other routes, in the same event loop as its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidewire.errors import ConfigurationError

__all__ = ("http_client",)


def http_client(app: Callable[[], Any]) -> Any:
    """Return httpx's client for the application that `app` returns; raises ConfigurationError without httpx."""
    try:
        import httpx
    except ModuleNotFoundError:
        raise ConfigurationError("rt.http needs httpx, as FastAPI's TestClient does; run: pip install httpx") from None

    async def current(scope: Any, receive: Any, send: Any) -> None:
        await app()(scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=current), base_url="http://testserver")
