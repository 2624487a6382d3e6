"""The ready server as one FastAPI application; what its routes need stands in `app.state`."""

from __future__ import annotations

from fastapi import FastAPI

from tidewire.server.routes import health
from tidewire.server.settings import Settings

__all__ = ("create_app",)


def create_app(settings: Settings) -> FastAPI:
    """Make the server's application; nothing is opened before its lifespan starts."""
    app = FastAPI(title="tidewire", openapi_url=None)
    app.state.settings = settings
    app.include_router(health.router)
    return app
