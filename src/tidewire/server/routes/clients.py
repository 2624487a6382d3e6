"""The endpoints for the SDKs of the Centrifuge protocol: with a token of theirs, or logged in by our own cookie."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import HTTPConnection

from tidewire.errors import TemporaryFailure, TokenExpired
from tidewire.hub import Hub
from tidewire.rules.base import Authority, Identity
from tidewire.server.identity import Logins
from tidewire.server.loopback import is_local
from tidewire.server.page_authority import LOCAL
from tidewire.server.settings import Settings

__all__ = ("client_routes",)


def client_routes(hub: Hub, settings: Settings, authority: Authority, logins: Logins) -> APIRouter:
    """Make the routes; who has logged in to the server connects as that user where its accounts are accepted."""

    async def logged_in(connection: HTTPConnection) -> Identity | None:
        token = connection.cookies.get("token")
        try:
            return await logins.identify(token) if token and settings.accepts_accounts else None
        except (TokenExpired, TemporaryFailure):
            return None  # as if it had none: the authority says what strangers may do

    async def presented(connection: HTTPConnection) -> Identity | None:
        identity = await logged_in(connection)
        if not is_local(settings, connection):
            return identity
        return msgspec.structs.replace(identity or Identity(), context=LOCAL)

    return hub.client_router(user=presented, authority=authority)
