"""The endpoints for the SDKs of the Centrifuge protocol: with a token of theirs, or logged in by our own cookie."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import HTTPConnection

from tidewire.access import Authority, Identity
from tidewire.errors import TemporaryFailure, TokenExpired
from tidewire.fastapi import Hub
from tidewire.server.identity import Logins

__all__ = ("client_routes",)


def client_routes(hub: Hub, authority: Authority, logins: Logins | None) -> APIRouter:
    """Make the routes of a server with these accounts; None: who logged in is a stranger here."""
    if logins is None:
        return hub.client_router(authority=authority)

    async def logged_in(connection: HTTPConnection) -> Identity | None:
        token = connection.cookies.get("token")
        try:
            return await logins.identify(token) if token else None
        except (TokenExpired, TemporaryFailure):
            return None  # as if it had none: the authority says what strangers may do

    return hub.client_router(user=logged_in, authority=authority)
