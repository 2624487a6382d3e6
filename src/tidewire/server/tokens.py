"""Tokens that say who somebody is: JWT (RFC 7519), signed with a key that is made at first start and never shown."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

import jwt
import msgspec

from tidewire.errors import ConfigurationError, TidewireError
from tidewire.server.accounts import Accounts, User

__all__ = ("Claims", "ExpiredToken", "InvalidToken", "Tokens", "identify", "load_key")

_ALGORITHM, _ISSUER = "HS256", "tidewire"
#: Characters of a token.
_TOKEN_SIZE = 8_192
#: Bytes of a key: what HMAC-SHA-256 wants at least (RFC 7518 section 3.2).
_KEY_BYTES = 32
#: How much a clock may have been set back between making an account and its first token.
_CLOCK_SECONDS = 60


class InvalidToken(TidewireError):
    """Raised for a token that is not ours, or not any more; it does not say why."""

    def __init__(self) -> None:
        super().__init__("invalid or expired token; log in again")


class ExpiredToken(InvalidToken):
    """Raised for a token that was ours until it expired."""


class Claims(msgspec.Struct, frozen=True):
    """What a token says: whose it is, when it was issued and when it ends, in seconds since 1970."""

    user: str
    issued: int
    expires: int


class Tokens:
    """Issues and verifies tokens with one key."""

    __slots__ = ("_key", "_seconds")

    def __init__(self, key: bytes, seconds: float) -> None:
        self._key = key
        self._seconds = seconds

    def issue(self, user: str, *, seconds: float | None = None) -> str:
        """Return a new token of a user, good for so many seconds."""
        now = time.time()
        ends = now + (self._seconds if seconds is None else seconds)
        claims = {"sub": user, "iat": int(now), "exp": int(ends), "iss": _ISSUER}
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    def verify(self, token: str) -> Claims:
        """Return what a token says. Raises InvalidToken."""
        if len(token) > _TOKEN_SIZE:
            raise InvalidToken
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                # A token from before a clock was set back is as good as any other.
                options={"require": ["sub", "iat", "exp", "iss"], "verify_iat": False},
            )
            return Claims(claims["sub"], int(claims["iat"]), int(claims["exp"]))
        except jwt.ExpiredSignatureError:
            raise ExpiredToken from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise InvalidToken from None


async def identify(token: str, tokens: Tokens, accounts: Accounts) -> User:
    """Return the user whose token this is. Raises InvalidToken, for users that were removed since, too."""
    claims = tokens.verify(token)
    user = await accounts.find(claims.user)
    # A token of a removed user is not one of the next user with that name.
    if user is None or claims.issued + _CLOCK_SECONDS < user.created:
        raise InvalidToken
    return user


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
        # A link never replaces: of several processes one wins, and all read what that one wrote.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
