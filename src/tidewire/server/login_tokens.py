"""Tokens that identify users: JWT (RFC 7519), signed with a key that is made at first start and never shown."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec

from tidewire.errors import ConfigurationError, TidewireError
from tidewire.messages import IssuedToken
from tidewire.rules.base import Identity
from tidewire.server.accounts import Accounts
from tidewire.server.login_sessions import LoginSession, User

__all__ = ("Claims", "ExpiredToken", "InvalidToken", "Login", "SessionToken", "Tokens", "identify", "load_key")

_ALGORITHM, _ISSUER, _DEVICE_ISSUER = "HS256", "tidewire", "tidewire-device"
#: Characters of a token.
_TOKEN_SIZE = 8_192
#: Bytes of a key: the least that HMAC-SHA-256 wants (RFC 7518 section 3.2).
_KEY_BYTES = 32
#: Seconds for which a browser is known as a device of a user.
_DEVICE_SECONDS = 31_536_000


class InvalidToken(TidewireError):
    """Raised for a token that is not ours, or not any more; it does not say why."""

    def __init__(self) -> None:
        super().__init__("invalid or expired token; log in again")


class ExpiredToken(InvalidToken):
    """Raised for a token that was ours until it expired."""


class Claims(msgspec.Struct, frozen=True):
    """The claims of a token: the id of the user, the session, and two times in seconds since 1970."""

    user: str
    session: str
    issued: float
    expires: float


class SessionToken(IssuedToken, frozen=True):
    """The token of a login; its id is that of the session."""


class Login(msgspec.Struct, frozen=True):
    """A verified token whose session goes on."""

    user: User
    claims: Claims

    @property
    def identity(self) -> Identity:
        """The identity of a connection that is opened with the token: it ends with that, and with its session."""
        claims = self.claims
        token = SessionToken(claims.session, claims.issued)
        return Identity(self.user.hub_user, expires_at=claims.expires, token=token)


class Tokens:
    """Issues and verifies tokens with one key."""

    __slots__ = ("_key", "_seconds")

    def __init__(self, key: bytes, seconds: float) -> None:
        self._key = key
        self._seconds = seconds

    @property
    def seconds(self) -> float:
        """The seconds for which a login is valid."""
        return self._seconds

    def issue(self, user: str, session: LoginSession) -> str:
        """Return the token of a session."""
        times = {"iat": round(session.created, 3), "exp": round(session.expires, 3)}
        claims = {"sub": user, "jti": session.id, "iss": _ISSUER, **times}
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def issue_device(self, user: str) -> str:
        """Return the token by which a browser is known as a device of a user; it does not log in."""
        claims = {"sub": user, "jti": secrets.token_urlsafe(16), "iss": _DEVICE_ISSUER}
        return jwt.encode(claims | {"exp": int(time.time()) + _DEVICE_SECONDS}, self._key, algorithm=_ALGORITHM)

    def verify_device(self, token: str) -> tuple[str, str] | None:
        """Return the user and the id of a known device, or None."""
        try:
            claims = self._decode(token, _DEVICE_ISSUER, ["sub", "jti", "exp", "iss"])
            return str(claims["sub"]), str(claims["jti"])
        except InvalidToken:
            return None

    def verify(self, token: str) -> Claims:
        """Return the claims of a token. Raises InvalidToken."""
        claims = self._decode(token, _ISSUER, ["sub", "jti", "iat", "exp", "iss"])
        try:
            return Claims(claims["sub"], claims["jti"], float(claims["iat"]), float(claims["exp"]))
        except (ValueError, TypeError):
            raise InvalidToken from None

    def _decode(self, token: str, issuer: str, required: list[str]) -> dict[str, Any]:
        if len(token) > _TOKEN_SIZE:
            raise InvalidToken
        try:
            return jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                issuer=issuer,
                # A token that was issued before a clock was set back is as valid as any other.
                options={"require": required, "verify_iat": False},
            )
        except jwt.ExpiredSignatureError:
            raise ExpiredToken from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise InvalidToken from None


async def identify(token: str, tokens: Tokens, accounts: Accounts) -> Login:
    """Return the login that a token stands for. Raises InvalidToken when it has ended, or the user was removed."""
    claims = tokens.verify(token)
    user = await accounts.sessions.user(claims.session)
    if user is None or user.id != claims.user:
        raise InvalidToken
    return Login(user, claims)


def load_key(path: Path) -> bytes:
    """Return the key of a file, which is made, for its owner alone, when it does not exist.

    Processes that start at once get the same key. Raises ConfigurationError when the file cannot be used.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text("ascii"))
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be used for the key of the tokens ({error.strerror}); "
            "start where you may write, or name another file with --key-file"
        ) from None
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        raise ConfigurationError(
            f"{path} is not a key of tidewire; remove it and a new one is made (everybody has to log in again)"
        )
    return key


def _make_key(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link never replaces a file: of several processes one wins, and all read that one's key.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
