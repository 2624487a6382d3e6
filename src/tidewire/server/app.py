"""The ready server as one FastAPI application; `app.state` has the objects that its routes need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from tidewire.errors import StoreUnavailable
from tidewire.hub import Hub
from tidewire.protocols.chat import ChatProtocol
from tidewire.rules.options_by_name import OptionsByName
from tidewire.server.accounts import Accounts
from tidewire.server.chat_session import CHANNELS
from tidewire.server.connection_login import Logins
from tidewire.server.described_channels import described
from tidewire.server.login_tokens import Tokens, load_key
from tidewire.server.namespaces import Namespaces
from tidewire.server.page_authority import PageAuthority, with_playground
from tidewire.server.pipeline_setup import server_pipelines
from tidewire.server.rooms import RoomDirectory
from tidewire.server.routes import api_key, chat_socket, health, login, tutorial
from tidewire.server.routes.api_docs import api_docs
from tidewire.server.routes.clients import client_routes
from tidewire.server.routes.manual_site import manual
from tidewire.server.routes.missing import add_missing
from tidewire.server.routes.observers import add_observers
from tidewire.server.routes.pages import add_pages, listed_pages
from tidewire.server.routes.pipeline_access import add_pipelines
from tidewire.server.same_site import SameSite
from tidewire.server.session_watch import SessionWatch
from tidewire.server.settings import Settings
from tidewire.server.tracing_setup import hide_secrets
from tidewire.sessions.origins import Origins

__all__ = ("create_app",)

#: Origins whose pages may connect to a server on a loopback address.
_LOOPBACK_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*")


def create_app(settings: Settings) -> FastAPI:
    """Make the server's application; nothing is opened before its lifespan starts."""
    origins = Origins(_origins(settings), loopback_only=settings.is_loopback)
    # only the API is described: the other routes are for our own pages
    app = FastAPI(
        title="tidewire",
        lifespan=_lifespan,
        openapi_url="/openapi.json" if settings.http_api.is_on else None,
        docs_url=None,  # those pages of FastAPI load scripts from elsewhere
        redoc_url=None,
        telemetry={"auto_configure": True},  # exports where the standard OTEL_* variables say so
    )
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_middleware(SameSite, origins=origins)
    app.add_exception_handler(StoreUnavailable, _away)
    has_playground = settings.serves_tutorial or settings.serves_playground
    channel = with_playground(settings.channel) if has_playground else settings.channel
    namespaces = Namespaces(channel, channel_name=settings.limits.channel_name)
    logins = _add_objects(app, settings, namespaces, origins)
    _add_routes(app, settings, logins)
    pages = listed_pages(settings)
    add_missing(app, pages=pages)
    app.include_router(app.state.hub.asyncapi_router(described=described(channel), pages=pages))
    if settings.http_api.is_on or settings.is_loopback:
        app.include_router(api_docs(is_on=settings.http_api.is_on, pages=pages))
        app.include_router(manual(pages=pages))
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = app.state.settings
    hide_secrets()
    app.state.tokens = Tokens(load_key(settings.token_key_file), settings.token_seconds)
    await app.state.accounts.open()
    try:
        async with app.state.hub, app.state.pipelines or contextlib.nullcontext(), asyncio.TaskGroup() as group:
            watch = SessionWatch(app.state.hub, app.state.accounts)
            tasks = [group.create_task(watch.run()), group.create_task(app.state.rooms.keep_sweeping())]
            yield
            for task in tasks:
                task.cancel()
    finally:
        await app.state.accounts.aclose()


def _add_objects(app: FastAPI, settings: Settings, namespaces: Namespaces, origins: Origins) -> Logins:
    """Put the objects that routes need into the state of the application; return the logins."""
    options = OptionsByName(CHANNELS)
    options.prefer(namespaces.options, namespaces.pattern)
    app.state.settings = settings
    app.state.accounts = Accounts(settings.accounts_file, limits=settings.limits, apart=settings.sets_accounts_apart)
    app.state.dialect = ChatProtocol(json_depth=settings.limits.json_depth)
    app.state.hub = hub = Hub(settings.broker, limits=settings.limits, channels=options, origins=origins)
    logins = Logins(lambda: app.state.tokens, app.state.accounts)
    app.state.authority = _authority(settings, namespaces, logins, playground=settings.serves_tutorial)
    app.state.rooms = RoomDirectory(hub, app.state.accounts)
    app.state.pipelines = server_pipelines(settings, hub) if settings.pipelines.enabled else None
    return logins


def _add_routes(app: FastAPI, settings: Settings, logins: Logins) -> None:
    hub, authority = app.state.hub, app.state.authority
    # WebSockets first: the path of a newcomer is compared with every route before its own
    app.include_router(chat_socket.router)
    if settings.serves_tutorial:
        app.include_router(tutorial.router, include_in_schema=False)
    app.include_router(health.router, include_in_schema=False)
    app.include_router(login.router, include_in_schema=False)
    if settings.http_api.is_on:
        app.include_router(api_key.with_key(settings.http_api, hub, authority))
    else:
        app.include_router(api_key.without_key, include_in_schema=False)
    app.include_router(client_routes(hub, settings, authority, logins))
    add_observers(app, hub, settings, listed_pages(settings))
    add_pages(app, settings)
    if app.state.pipelines is not None:
        add_pipelines(app, settings, app.state.pipelines)


def _authority(settings: Settings, namespaces: Namespaces, logins: Logins, *, playground: bool) -> PageAuthority:
    return PageAuthority(
        settings.client,
        namespaces,
        accounts=logins if settings.accepts_accounts else None,
        logins=logins,
        pipelines=settings.pipelines.enabled,
        playground=playground,
    )


async def _away(request: Request, error: Exception) -> Response:
    """Answer for accounts, or another store, that cannot be used now."""
    return JSONResponse({"detail": "the accounts cannot be read now; try again"}, 503, {"Retry-After": "5"})


async def _gone(request: Request, error: Exception) -> Response:
    """Handle a client that disconnects in the middle of its request; no traceback, because nothing failed here."""
    return Response(status_code=400)


def _origins(settings: Settings) -> tuple[str, ...]:
    if settings.allowed_origins is not None:
        return tuple(settings.allowed_origins)
    return _LOOPBACK_ORIGINS if settings.is_loopback else ()
