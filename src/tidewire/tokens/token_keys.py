"""Keys that verify the tokens of an application: secrets, public keys in PEM, and published key sets."""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tidewire.errors import ConfigurationError
from tidewire.support.shown_value import shown_url

__all__ = ("ECDSA", "HMAC", "RSA", "KeySet", "KeysAway", "algorithms", "load_public_key")

logger = logging.getLogger("tidewire")

#: The algorithms of each kind of key (RFC 7518 section 3.1). A token cannot choose one of another kind.
HMAC = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512")
ECDSA = ("ES256", "ES384", "ES512")
_PUBLIC = (RSAPublicKey, EllipticCurvePublicKey, Ed25519PublicKey, Ed448PublicKey)
_PUBLISHED = (*RSA, *ECDSA, "EdDSA")

#: Seconds until a key set is fetched again: ordinarily, and for an unknown key or after a failure.
_GOOD_SECONDS, _AGAIN_SECONDS = 3_600.0, 10.0
_FETCH_SECONDS = 5.0
_SET_BYTES = 1_048_576
_KEYS = 100


class _Published(msgspec.Struct):
    """A key set; each key is judged by itself."""

    keys: list[Any]


class KeysAway(Exception):
    """Raised when the key set cannot be fetched, so that the token can be neither accepted nor refused."""


def load_public_key(pem: str, setting: str) -> RSAPublicKey | EllipticCurvePublicKey:
    """Return a key from PEM; raises ConfigurationError, which does not show it."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{setting} is no public key in PEM; it begins with -----BEGIN PUBLIC KEY-----"
        ) from error
    expected = RSAPublicKey if setting.endswith("rsa_public_key") else EllipticCurvePublicKey
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey) or not isinstance(key, expected):
        raise ConfigurationError(f"{setting} is a public key of another kind; look which of the settings it is for")
    return key


def _fetch(url: str) -> bytes:
    end, body = time.monotonic() + _FETCH_SECONDS, b""
    with urllib.request.urlopen(url, timeout=_FETCH_SECONDS) as response:
        while data := response.read1(_SET_BYTES):
            body += data
            if len(body) > _SET_BYTES:
                raise OSError(f"the key set has more than {_SET_BYTES} bytes")
            if time.monotonic() > end:  # the timeout above bounds silence only
                raise TimeoutError
    return body


class KeySet:
    """The keys that a server publishes (JWKS, RFC 7517), fetched in a thread and kept for an hour."""

    __slots__ = ("_clock", "_fetching", "_has_failed", "_keys", "_lock", "_tried", "_until", "url")

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not url.startswith(("https://", "http://")):
            raise ConfigurationError(
                f"key set {shown_url(url)} is no address; write https://example.org/.well-known/jwks.json"
            )
        self.url = url
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._until = float("-inf")
        self._tried = float("-inf")
        self._has_failed = False
        self._lock = asyncio.Lock()
        self._fetching: asyncio.Task[bytes] | None = None

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key with this id, or None when the set has no such key.

        Raises KeysAway when that is unknown now: there is no set, it cannot be fetched again, or was fetched too
        recently for that, and may have got this key since. A set without any usable key is a mistake that is mended
        soon: it withdraws the earlier keys, and refuses nobody for good.
        """
        asked = self._clock()
        if not self._is_fresh(kid):
            async with self._lock:  # the first caller fetches, the others wait
                if not self._is_fresh(kid):
                    await self._refresh()
        found = self._keys.get(kid)
        if found is None and kid and (self._has_failed or self._tried < asked or not self._keys):
            raise KeysAway
        return found

    def _is_fresh(self, kid: str) -> bool:
        now = self._clock()
        if now < self._until and kid in self._keys:
            return True
        return bool(self._keys) and now - self._tried < _AGAIN_SECONDS

    async def _refresh(self) -> None:
        if self._clock() - self._tried < _AGAIN_SECONDS:
            raise KeysAway
        self._tried, self._has_failed = self._clock(), True
        try:
            self._keys = _usable(await self._fetched())
        except (OSError, HTTPException, ValueError, msgspec.MsgspecError, RecursionError) as error:
            logger.warning("the key set of %s cannot be fetched: %s", urlsplit(self.url).hostname, type(error).__name__)
            if not self._keys:
                raise KeysAway from None
        else:
            self._until, self._has_failed = self._clock() + _GOOD_SECONDS, False

    async def _fetched(self) -> bytes:
        """Wait for the set within the deadline; a fetch that takes longer is not begun twice. Raises OSError."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(asyncio.to_thread(_fetch, self.url))
            # it may end when no caller waits for it any more; the next caller gets its result
            self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        done, _ = await asyncio.wait([self._fetching], timeout=_FETCH_SECONDS)
        if not done:
            raise TimeoutError
        fetching, self._fetching = self._fetching, None
        return fetching.result()


def _usable(body: bytes) -> dict[str, jwt.PyJWK]:
    """Return the keys of a set that can verify tokens; none, when the issuer has withdrawn all.

    Raises ValueError, MsgspecError or RecursionError for what is no set: each key must be an object with a kind, but
    one such key is enough.
    """
    published = msgspec.json.decode(body, type=_Published).keys
    if published and not any(isinstance(one, dict) and isinstance(one.get("kty"), str) for one in published):
        raise ValueError("nothing in the key set is a key")
    found = _readable(published)
    usable = (key for key in found if key.key_id and key.public_key_use in (None, "sig") and algorithms(key))
    return {str(key.key_id): key for key in islice(usable, _KEYS)}


def _readable(published: Iterable[Any]) -> Iterable[jwt.PyJWK]:
    """Yield the public keys that can be read: others, of a newer kind or broken, must not keep them out."""
    for one in published:
        try:
            key = jwt.PyJWK(one)
        except (jwt.PyJWTError, UnsupportedAlgorithm, AttributeError, LookupError, TypeError, ValueError):
            logger.debug("a key of the key set cannot be read")
        else:
            if isinstance(key.key, _PUBLIC):
                yield key


def algorithms(key: jwt.PyJWK) -> tuple[str, ...]:
    """Return the algorithms of tokens that this key may verify: the key decides, never the token."""
    if key.key_type == "RSA":
        return RSA
    name = str(key.algorithm_name)
    return (name,) if name in _PUBLISHED else ()
