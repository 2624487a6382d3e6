"""The identity of a client by a JWT that it presents in any of the usual ways, as a dependency of FastAPI."""

# Without `from __future__ import annotations`: FastAPI reads the signature of an instance, and not in its module.

import base64
import logging
from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import SecretStr, ValidationError
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from tidewire.errors import ConfigurationError, PublishError, StoreUnavailable, TemporaryFailure, TokenExpired
from tidewire.protocols.close_codes import POLICY, STORE_AWAY
from tidewire.protocols.outages import sentence
from tidewire.rules.base import ConnectAttempt, Identity
from tidewire.sessions.origins import Origins
from tidewire.support.log_limit import LogLimit
from tidewire.tokens.client_tokens import BadToken, ClientTokens, raw_bytes
from tidewire.tokens.tickets import Tickets
from tidewire.tokens.token_settings import TokenTable

__all__ = ("JwtIdentity",)

logger = logging.getLogger("tidewire")

_refused = LogLimit()
#: The beginning of a subprotocol that holds a token; it is never chosen.
_BEARER = "bearer."


#: The arguments whose settings have other names.
_ARGUMENTS = {"jwks_public_endpoint": "jwks", "user_id_claim": "user_claim"}


class JwtIdentity:
    """Verifies JWTs; a dependency that returns the `Identity` of a client: `Depends(JwtIdentity(jwks="https://…"))`.

    The token may come in the `Authorization` header (Bearer), as an offered subprotocol `bearer.TOKEN`, which is never
    chosen, in the query parameter `query`, or in the cookie `cookie`, which counts for pages of the same site and of
    `origins` alone; a ticket of `tickets` comes in the query parameter `ticket`. Its signature is verified by one of
    the keys: a shared secret of 32 bytes or more, a public key in PEM, or the key set that an identity provider
    publishes (`jwks`). The `context` of the identity is the claims. Raises ConfigurationError without a key.
    """

    def __init__(
        self,
        secret: str = "",
        *,
        previous_secret: str = "",
        rsa_public_key: str = "",
        ecdsa_public_key: str = "",
        jwks: str = "",
        audience: str = "",
        issuer: str = "",
        user_claim: str = "",
        require_exp: bool = True,
        leeway: float = 5.0,
        query: str = "token",
        cookie: str = "",
        origins: Iterable[str] = (),
        tickets: Tickets | None = None,
        required: bool = True,
    ) -> None:
        _check_texts(secret=secret, previous_secret=previous_secret, query=query, cookie=cookie)
        try:
            table = TokenTable(
                hmac_secret_key=SecretStr(secret),
                hmac_previous_secret_key=SecretStr(previous_secret),
                rsa_public_key=rsa_public_key,
                ecdsa_public_key=ecdsa_public_key,
                jwks_public_endpoint=jwks,
                audience=audience,
                issuer=issuer,
                user_id_claim=user_claim,
                require_exp=require_exp,
                leeway=leeway,
            )
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False)[0]
            name = _ARGUMENTS.get(str(found["loc"][0]), found["loc"][0])
            raise ConfigurationError(f"JwtIdentity({name}=…): {found['msg'].lower()}") from None
        if not table.has_keys:
            raise ConfigurationError("JwtIdentity needs a key; write secret=…, rsa_public_key=…, or jwks='https://…'")
        self._tokens = ClientTokens(table, setting="JwtIdentity")
        self._query, self._cookie, self._tickets, self._required = query, cookie, tickets, required
        self._origins = Origins(origins)

    async def __call__(self, connection: HTTPConnection) -> Identity | None:
        """Return the identity of a client, or None if it has no token and none is required; refuse any other."""
        ticket = connection.query_params.get("ticket", "") if self._tickets is not None else ""
        token = "" if ticket else self._presented(connection)
        if not (ticket or token):
            if self._required:
                raise _refusal(connection, "a token is required")
            return None
        try:
            if ticket and self._tickets is not None:
                found = await self._tickets.redeem(ticket)
            else:
                found = await self.authenticate(token)
        except TokenExpired as error:
            raise _refusal(connection, str(error)) from None
        except (TemporaryFailure, PublishError, StoreUnavailable) as error:
            raise _refusal(connection, sentence(error), is_temporary=True) from None
        if found is None:
            raise _refusal(connection, "the ticket is unknown, used or expired" if ticket else "the token is not valid")
        return found

    async def authenticate(self, presented: str | ConnectAttempt) -> Identity | None:
        """Return the identity in a token, None for one that can never be valid.

        It may be given to `hub.authenticate(…)`, for clients that present their token in the protocol.
        Raises TokenExpired for one that must be renewed, TemporaryFailure where the keys cannot be fetched now.
        """
        token = presented if isinstance(presented, str) else presented.token
        try:
            claims = await self._tokens.connection(token)
            if not claims.sub:
                raise BadToken("the token names no user")
            return Identity(
                claims.sub,
                info=raw_bytes(claims.info, claims.b64info),
                expires_at=claims.expires_at,
                context=_claims(token),
                token=claims.issued,
            )
        except BadToken as error:
            more = _refused.due(str(error))
            if more is not None:
                logger.info("a token was refused: %s%s", error, more)
            return None

    def _presented(self, connection: HTTPConnection) -> str:
        """Return the token that a client presents, "" for none."""
        scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and bearer.strip():
            return bearer.strip()
        for offered in connection.scope.get("subprotocols") or ():
            if offered.startswith(_BEARER):
                return str(offered.removeprefix(_BEARER))
        if self._query and (given := connection.query_params.get(self._query)):
            return given
        cookie = connection.cookies.get(self._cookie, "") if self._cookie else ""
        return cookie if cookie and self._origins.allows(connection) else ""


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a token that was verified."""
    payload = token.split(".")[1]
    found: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def _refusal(connection: HTTPConnection, why: str, *, is_temporary: bool = False) -> Exception:
    if connection.scope["type"] == "websocket" and "websocket.http.response" not in connection.scope.get(
        "extensions", {}
    ):
        return WebSocketException((STORE_AWAY if is_temporary else POLICY).code, why)
    if is_temporary:
        return HTTPException(503, why, {"Retry-After": "5"})
    return HTTPException(401, why, {"WWW-Authenticate": "Bearer"})


def _check_texts(**values: object) -> None:
    """Refuse what is no text, without showing it: it may be a secret."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"JwtIdentity({name}=…) is a {type(value).__name__}; write a text")
