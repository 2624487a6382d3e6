"""Tokens that an application signs for its clients, to connect and to subscribe (JWT, RFC 7519).

The checks, in this order: signature, audience and issuer, kind of token, times.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jwt
import msgspec

from tidewire.errors import ConfigurationError, TemporaryFailure, TidewireError, TokenExpired
from tidewire.messages import IssuedToken
from tidewire.protocols.centrifuge.option_overrides import Override
from tidewire.tokens.token_keys import ECDSA, HMAC, RSA, KeysAway, KeySet, algorithms, load_public_key
from tidewire.tokens.token_settings import TokenTable

__all__ = ("BadToken", "ClientTokens", "ConnectionClaims", "ServerSubscription", "SubscriptionClaims")

#: Characters of a token; one with more is refused.
TOKEN_SIZE = 16_384

#: The least that HMAC-SHA-256 needs (RFC 7518 section 3.2).
_SECRET_BYTES = 32

#: Seconds within which a token that is not valid yet (`nbf`, `iat`) may become valid while its client tries again.
_SOON = 300.0
#: A time that is so many seconds ahead counts milliseconds.
_MILLISECONDS = 1e11

logger = logging.getLogger("tidewire")
_jws = jwt.PyJWS()
# The log warns of a short secret once, at start, and not for each token.
warnings.filterwarnings("ignore", category=jwt.InsecureKeyLengthWarning)


class BadToken(TidewireError):
    """Raised for a token that can never become valid; the text says why without showing it."""


class ServerSubscription(msgspec.Struct, frozen=True):
    """One server-side subscription in a connection token."""

    info: msgspec.Raw = msgspec.Raw(b"")
    b64info: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    b64data: str = ""
    override: Override | None = None


class _Times(msgspec.Struct, frozen=True, kw_only=True):
    sub: str = ""
    exp: float | None = None
    nbf: float | None = None
    aud: str | list[str] | None = None
    iss: str = ""
    jti: str | int = ""
    iat: float | None = None
    expire_at: float | None = None
    info: msgspec.Raw = msgspec.Raw(b"")
    b64info: str = ""

    @property
    def expires_at(self) -> float | None:
        """When the connection or subscription ends; None: never."""
        if self.expire_at is not None:
            return self.expire_at or None
        return self.exp or None

    @property
    def issued(self) -> IssuedToken:
        """The part of a token by which it is revoked."""
        return IssuedToken(str(self.jti), self.iat)


class ConnectionClaims(_Times, frozen=True, kw_only=True):
    """The claims of a connection token."""

    channels: list[str] = []
    subs: dict[str, ServerSubscription] = {}
    channel: str = ""


class SubscriptionClaims(_Times, frozen=True, kw_only=True):
    """The claims of a subscription token."""

    channel: str = ""
    client: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    b64data: str = ""
    override: Override | None = None


T = TypeVar("T", bound=_Times)


class ClientTokens:
    """Verifies tokens with the keys of a `TokenTable`; each key has its fixed algorithms, and there is no `none`."""

    __slots__ = ("_audience", "_clock", "_issuer", "_keys", "_leeway", "_require_exp", "_set", "_user_claim")

    def __init__(
        self, table: TokenTable, *, setting: str = "client.token", clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = _keys(table, setting)
        self._set = KeySet(table.jwks_public_endpoint) if table.jwks_public_endpoint else None
        self._audience = _expected(table.audience, table.audience_regex, f"{setting}.audience")
        self._issuer = _expected(table.issuer, table.issuer_regex, f"{setting}.issuer")
        self._user_claim = table.user_id_claim
        self._require_exp, self._leeway = table.require_exp, table.leeway
        self._clock = clock

    async def connection(self, token: str) -> ConnectionClaims:
        """Return the claims of a connection token; raises BadToken, TokenExpired, TemporaryFailure."""
        claims = await self._verified(token, ConnectionClaims)
        if claims.channel:
            raise BadToken("a subscription token does not open a connection")
        return self._timely(claims)

    async def subscription(self, token: str) -> SubscriptionClaims:
        """Return the claims of a subscription token; raises BadToken, TokenExpired, TemporaryFailure."""
        claims = await self._verified(token, SubscriptionClaims)
        if not claims.channel:
            raise BadToken("a subscription token names a channel")
        return self._timely(claims)

    async def _verified(self, token: str, kind: type[T]) -> T:
        if len(token) > TOKEN_SIZE:
            raise BadToken(f"a token has at most {TOKEN_SIZE} characters")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg", ""))
            payload = _payload(token, algorithm, await self._candidates(algorithm, header))
            claims = msgspec.json.decode(payload, type=kind)
            if self._user_claim:
                found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw]).get(self._user_claim)
                user = "" if found is None else msgspec.json.decode(found, type=str)
                claims = msgspec.structs.replace(claims, sub=user)
        except msgspec.ValidationError as error:  # it names the claim and its type, not its value
            raise BadToken(f"a claim of the token has a wrong type: {error}") from None
        except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise BadToken(f"the token cannot be verified ({type(error).__name__})") from None
        self._check_parties(claims)
        return claims

    async def _candidates(self, algorithm: str, header: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the keys that may have signed a token."""
        if self._set is not None:
            try:
                found = await self._set.find(str(header.get("kid", "")))
            except KeysAway:
                raise TemporaryFailure("the keys that verify tokens cannot be fetched now; try again") from None
            if found is not None and algorithm in algorithms(found):
                return (found.key,)
        elif algorithm in self._keys:
            return self._keys[algorithm]
        raise BadToken("no key verifies the token")

    def _check_parties(self, claims: _Times) -> None:
        audiences = claims.aud if isinstance(claims.aud, list) else [claims.aud or ""]
        if self._audience is not None and not any(self._audience.fullmatch(name) for name in audiences):
            raise BadToken("the token is for another audience")
        if self._issuer is not None and not self._issuer.fullmatch(claims.iss):
            raise BadToken("the token is from another issuer")

    def _timely(self, claims: T) -> T:
        now = self._clock()
        # A token that says it is issued later would outlive the revocations until then.
        for name, moment in (("nbf", claims.nbf), ("iat", claims.iat)):
            early = (moment or 0.0) - now - self._leeway
            if early > _SOON:
                hint = "; write seconds, not milliseconds" if early > _MILLISECONDS else ""
                raise BadToken(f"the token is not valid yet (`{name}`), and will not be soon{hint}")
            if early > 0:
                raise TokenExpired(f"the token is not valid yet (`{name}`); fetch another, or try again then")
        if claims.exp is None and self._require_exp:
            raise BadToken("the token has no `exp`, which client.token.require_exp asks for")
        if claims.exp is not None and now >= claims.exp:
            raise TokenExpired("the token has expired; fetch another")
        return claims


def raw_bytes(raw: msgspec.Raw, encoded: str) -> bytes:
    """Return the data in a token, which is JSON or base64; raises BadToken."""
    if encoded:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise BadToken("a field of the token is not base64") from None
    text = bytes(raw)
    return b"" if text == b"null" else text


def _payload(token: str, algorithm: str, keys: tuple[Any, ...]) -> bytes:
    """Return the payload of a token that one of the keys verifies; raises jwt.PyJWTError."""
    for key in keys[:-1]:
        try:
            return bytes(_jws.decode_complete(token, key, algorithms=[algorithm])["payload"])
        except jwt.InvalidSignatureError:
            pass
    return bytes(_jws.decode_complete(token, keys[-1], algorithms=[algorithm])["payload"])


def _keys(table: TokenTable, setting: str) -> dict[str, tuple[Any, ...]]:
    """Return the keys of each algorithm, the present one first."""
    keys: dict[str, tuple[Any, ...]] = {}
    secrets = (table.hmac_secret_key.get_secret_value(), table.hmac_previous_secret_key.get_secret_value())
    if secrets[1] and not secrets[0]:
        raise ConfigurationError(f"{setting}.hmac_previous_secret_key stands alone; write hmac_secret_key, too")
    if secrets[0]:
        if len(secrets[0]) < _SECRET_BYTES:
            logger.warning(
                "%s.hmac_secret_key has %d characters; %d or more cannot be guessed",
                setting,
                len(secrets[0]),
                _SECRET_BYTES,
            )
        keys |= dict.fromkeys(HMAC, tuple(secret.encode() for secret in secrets if secret))
    if table.rsa_public_key:
        keys |= dict.fromkeys(RSA, (load_public_key(table.rsa_public_key, f"{setting}.rsa_public_key"),))
    if table.ecdsa_public_key:
        keys |= dict.fromkeys(ECDSA, (load_public_key(table.ecdsa_public_key, f"{setting}.ecdsa_public_key"),))
    return keys


def _expected(text: str, pattern: str, setting: str) -> re.Pattern[str] | None:
    if text and pattern:
        raise ConfigurationError(f"{setting} and {setting}_regex are both set; write one of them")
    try:
        return re.compile(re.escape(text) if text else pattern) if text or pattern else None
    except re.error as error:
        raise ConfigurationError(f"{setting}_regex is no regular expression: {error}") from None
