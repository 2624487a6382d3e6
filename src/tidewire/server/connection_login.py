"""Authentication of connections by the tokens of the login: from the query, a header, a cookie or the first message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from fastapi import WebSocket
from starlette.exceptions import WebSocketException

from tidewire.errors import BadRequest, LimitExceeded, StoreUnavailable, TemporaryFailure, TokenExpired
from tidewire.hub import Hub
from tidewire.messages import IssuedToken
from tidewire.rules.base import Identity
from tidewire.server.accounts import Accounts
from tidewire.server.login_tokens import ExpiredToken, InvalidToken, Login, Tokens, identify
from tidewire.sessions.application import HubConnection
from tidewire.support.counters import count_limit

__all__ = ("Doorkeeper", "Logins")

_EXPECTED = 'the first message must be {"type": "auth", "token": "…"}'


class Logins:
    """Verifies tokens of the login for an authority of client protocols."""

    __slots__ = ("_accounts", "_tokens")

    def __init__(self, tokens: Callable[[], Tokens], accounts: Accounts) -> None:
        self._tokens = tokens  # the key is not read before the server starts
        self._accounts = accounts

    async def identify(self, token: str) -> Identity | None:
        """Return the identity in a token, or None if it is not one of ours; raises TokenExpired, TemporaryFailure."""
        try:
            login = await identify(token, self._tokens(), self._accounts)
        except ExpiredToken:
            raise TokenExpired("the login has expired; log in again") from None
        except InvalidToken:
            return None
        except StoreUnavailable as error:
            raise TemporaryFailure("the accounts cannot be read now; try again") from error
        return login.identity


class _Auth(msgspec.Struct, tag="auth", tag_field="type"):
    token: str


_decode = msgspec.json.Decoder(_Auth).decode


class Doorkeeper:
    """Finds the user of one WebSocket; refuses it with 1008 (before accept: HTTP 403) if it has no valid token.

    The connection ends with its token, unless the client sends a newer one.
    """

    __slots__ = ("_accounts", "_hub", "_login", "_tokens")

    def __init__(self, hub: Hub, tokens: Tokens, accounts: Accounts) -> None:
        self._hub = hub
        self._tokens = tokens
        self._accounts = accounts
        self._login: Login | None = None

    @property
    def user(self) -> str:
        """The user of the hub, or "" before it is known."""
        return self._login.user.hub_user if self._login is not None else ""

    @property
    def token(self) -> IssuedToken | None:
        """The token that was presented."""
        return self._login.identity.token if self._login is not None else None

    async def read_handshake(self, websocket: WebSocket) -> None:
        """Take the token that the handshake presents, if any. Raises WebSocketException 1008 for an invalid one."""
        token = websocket.query_params.get("token") or _bearer(websocket) or websocket.cookies.get("token")
        if token:
            self._login = await self._verified(token)

    async def admit(self, connection: HubConnection) -> None:
        """Wait for a token in the first message, unless the handshake had one, and give the connection its user.

        Raises WebSocketException 1008 when none comes in time or it is invalid, 1013 when the user has too many
        connections, ConnectionClosed when the client goes.
        """
        if self._login is None:
            self._login = await self._wait_for_token(connection)
        connection.expire_at(self._login.claims.expires)

    async def _wait_for_token(self, connection: HubConnection) -> Login:
        try:
            async with asyncio.timeout(self._hub.limits.auth_seconds):
                message = await connection.receive_bytes()
        except TimeoutError:
            count_limit("auth_seconds")
            raise WebSocketException(1008, "not authenticated in time") from None
        try:
            login = await self._verified(_decode(message).token)
            await connection.identify(login.user.hub_user, token=login.identity.token)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise WebSocketException(1008, _EXPECTED) from None
        except LimitExceeded:
            raise WebSocketException(1013, "Too many connections") from None
        return login

    async def prolong(self, connection: HubConnection, token: str) -> None:
        """Extend a connection to the end of a newer token of the same user; raises BadRequest for any other."""
        try:
            login = await self._verified(token)
        except WebSocketException:
            login = None
        if login is None or self._login is None or login.user.hub_user != connection.user:
            name = self._login.user.name if self._login is not None else ""
            raise BadRequest(f"this connection belongs to {name!r}; only a valid token of that user prolongs it")
        self._login = login
        connection.connection.opened_with(login.identity.token)
        connection.expire_at(login.claims.expires)

    async def find(self, name: str) -> tuple[str, str] | None:
        """Return the user of the hub that the account of a name is, and its name as it is written, or None.

        Raises StoreUnavailable.
        """
        user = await self._accounts.find(name)
        return None if user is None else (user.hub_user, user.name)

    async def _verified(self, token: str) -> Login:
        try:
            return await identify(token, self._tokens, self._accounts)
        except InvalidToken:
            raise WebSocketException(1008, "invalid token") from None
        except StoreUnavailable:
            raise WebSocketException(1013, "accounts cannot be read now") from None


def _bearer(websocket: WebSocket) -> str:
    scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
