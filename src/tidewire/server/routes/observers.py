"""`/metrics`, `/admin` and `/playground` of the server, and the clients that may use them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from fastapi import APIRouter, FastAPI, HTTPException
from starlette.requests import HTTPConnection

from tidewire.hub import Hub
from tidewire.observe.guards import has_key
from tidewire.server.loopback import is_local
from tidewire.server.settings import Settings

__all__ = ("add_observers",)

_CLOSED = "this is for the server's own machine while it listens on loopback alone, or for the key of http_api.key"


def add_observers(app: FastAPI, hub: Hub, settings: Settings, pages: Iterable[tuple[str, str]]) -> None:
    """Serve metrics and the admin page to this machine while the server listens there alone, and for the key.

    The playground is for this machine alone, with or without a key.
    """
    key = settings.http_api.key.get_secret_value()

    def reader(connection: HTTPConnection) -> bool:
        if is_local(settings, connection) or (key and has_key(connection, key)):
            return True
        raise HTTPException(401 if key else 403, _CLOSED)

    app.include_router(hub.admin_router(user=reader, open_page=True, pages=pages))
    if settings.serves_playground:
        app.include_router(hub.playground_router(pages=pages))
    if find_spec("prometheus_client") is None:
        app.include_router(_without_library)
    else:
        app.include_router(hub.metrics_router(user=reader), include_in_schema=False)


_without_library: APIRouter = APIRouter(include_in_schema=False)


@_without_library.get("/metrics")
async def missing() -> None:
    """Return the name of the package to install."""
    raise HTTPException(501, "metrics need a package that is not installed; run: pip install 'tidewire[metrics]'")
