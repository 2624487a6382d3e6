"""The endpoints for SDKs of the Centrifuge protocol, authenticated by a token or by the login's cookie."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import HTTPConnection

from tidewire.errors import TemporaryFailure, TokenExpired
from tidewire.hub import Hub
from tidewire.rules.base import Authority, Identity
from tidewire.server.connection_login import Logins
from tidewire.server.loopback import is_local
from tidewire.server.page_authority import LOCAL
from tidewire.server.settings import Settings

__all__ = ("client_routes",)

#: Somebody on this machine who has not logged in.
_STRANGER = Identity(context=LOCAL)


def client_routes(hub: Hub, settings: Settings, authority: Authority, logins: Logins) -> APIRouter:
    """Return the routes; a browser that has logged in connects as that user if `client.allow_accounts` permits."""

    async def logged_in(connection: HTTPConnection) -> Identity | None:
        token = connection.cookies.get("token") if settings.accepts_accounts else None
        try:
            return await logins.identify(token) if token else None
        except (TokenExpired, TemporaryFailure):
            return None  # like no cookie: the authority decides about anonymous clients

    async def presented(connection: HTTPConnection) -> Identity | None:
        identity = await logged_in(connection)
        if not is_local(settings, connection):
            return identity
        return _STRANGER if identity is None else msgspec.structs.replace(identity, context=LOCAL)

    return hub.client_router(user=presented, authority=authority)
