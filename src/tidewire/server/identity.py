"""Who opens a connection, by the tokens that the login issues: by query, header or cookie, or in the first message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from fastapi import WebSocket
from starlette.exceptions import WebSocketException

from tidewire.errors import BadRequest, LimitExceeded, StoreUnavailable, TemporaryFailure, TokenExpired
from tidewire.options import Limits
from tidewire.rules.base import Identity
from tidewire.server.accounts import Accounts
from tidewire.server.tokens import ExpiredToken, InvalidToken, Tokens, identify
from tidewire.sessions.application import HubConnection
from tidewire.support.counters import count_limit

__all__ = ("Doorkeeper", "Logins")

_EXPECTED = 'the first message must be {"type": "auth", "token": "…"}'


class Logins:
    """Tells an authority whose token of the login it is."""

    __slots__ = ("_accounts", "_tokens")

    def __init__(self, tokens: Callable[[], Tokens], accounts: Accounts) -> None:
        self._tokens = tokens  # the key is read when the server starts, and not before
        self._accounts = accounts

    async def identify(self, token: str) -> Identity | None:
        """Return whose token it is, or None when it is not one of ours; raises TokenExpired, TemporaryFailure."""
        try:
            tokens = self._tokens()
            claims = tokens.verify(token)
            user = await identify(token, tokens, self._accounts)
        except ExpiredToken:
            raise TokenExpired("the login has expired; log in again") from None
        except InvalidToken:
            return None
        except StoreUnavailable as error:
            raise TemporaryFailure("the accounts cannot be read now; try again") from error
        return Identity(user.name, expires_at=claims.expires)


class _Auth(msgspec.Struct, tag="auth", tag_field="type"):
    token: str


_decode = msgspec.json.Decoder(_Auth).decode


class Doorkeeper:
    """Finds the user of one WebSocket; refuses with 1008 (before accept: HTTP 403) who has no valid token.

    The connection ends with its token, unless the client sends a newer one.
    """

    __slots__ = ("_accounts", "_expires", "_limits", "_tokens")

    def __init__(self, tokens: Tokens, accounts: Accounts, limits: Limits) -> None:
        self._tokens = tokens
        self._accounts = accounts
        self._limits = limits
        self._expires = 0

    async def presented(self, websocket: WebSocket) -> str:
        """Return the user of the token that the handshake presents, or "" when it presents none.

        Raises WebSocketException 1008 for an invalid token.
        """
        token = websocket.query_params.get("token") or _bearer(websocket) or websocket.cookies.get("token")
        return await self._user(token) if token else ""

    async def admit(self, connection: HubConnection) -> None:
        """Wait for the first message to present a token, unless the handshake did, and give the connection its user.

        Raises WebSocketException 1008 when none comes in time or it is invalid, 1013 when the user has too many
        connections, ConnectionClosed when the client goes.
        """
        if not connection.user:
            await self._wait_for_token(connection)
        connection.expire_at(self._expires)

    async def _wait_for_token(self, connection: HubConnection) -> None:
        try:
            async with asyncio.timeout(self._limits.auth_seconds):
                message = await connection.receive_bytes()
        except TimeoutError:
            count_limit("auth_seconds")
            raise WebSocketException(1008, "not authenticated in time") from None
        try:
            await connection.identify(await self._user(_decode(message).token))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise WebSocketException(1008, _EXPECTED) from None
        except LimitExceeded:
            raise WebSocketException(1013, "Too many connections") from None

    async def prolong(self, connection: HubConnection, token: str) -> None:
        """Let a connection live as long as a newer token of the same user; raises BadRequest for any other."""
        before = self._expires
        try:
            if await self._user(token) == connection.user:
                connection.expire_at(self._expires)
                return
        except WebSocketException:
            pass
        self._expires = before
        raise BadRequest(f"this connection belongs to {connection.user!r}; only a valid token of that user prolongs it")

    async def _user(self, token: str) -> str:
        try:
            user = await identify(token, self._tokens, self._accounts)
            self._expires = self._tokens.verify(token).expires
            return user.name
        except InvalidToken:
            raise WebSocketException(1008, "invalid token") from None
        except StoreUnavailable:
            raise WebSocketException(1013, "accounts cannot be read now") from None


def _bearer(websocket: WebSocket) -> str:
    scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
