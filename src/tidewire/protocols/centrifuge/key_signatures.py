"""Signatures that allow a client to track keys of polled values: made by a backend, checked by the server."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Sequence

from tidewire.errors import PermissionDenied, TokenExpired

__all__ = ("check_signature", "sign_keys")

#: When it was made, when it ends, and the code: as Centrifugo's.
_FORM = re.compile(r"(\d{1,12}):(\d{1,12}):([0-9a-f]{64})", re.ASCII)


def sign_keys(secret: str, channel: str, keys: Sequence[str], user: str, *, seconds: float) -> str:
    """Return the signature for keys, in this order, of a user ("": nobody known) in a channel."""
    now = int(time.time())
    times = str(now), str(now + max(1, round(seconds)))
    return ":".join((*times, _code(secret, times, channel, keys, user)))


def check_signature(secret: str, signature: str, channel: str, keys: Sequence[str], user: str) -> float:
    """Return when a signature ends, in seconds since 1970; raises PermissionDenied, TokenExpired."""
    found = _FORM.fullmatch(signature)
    if found is None:
        raise PermissionDenied(f"the signature of keys of {channel!r} has no such form; sign them by the rule's sign()")
    begins, ends, code = found.groups()
    if not hmac.compare_digest(code, _code(secret, (begins, ends), channel, keys, user)):
        raise PermissionDenied(f"the signature is not for these keys of {channel!r}, in this order and for this user")
    if float(ends) <= time.time():
        raise TokenExpired(f"the signature of keys of {channel!r} has expired; fetch another")
    return float(ends)


def _code(secret: str, times: tuple[str, str], channel: str, keys: Sequence[str], user: str) -> str:
    keys_hash = hashlib.sha256("\0".join(keys).encode()).hexdigest()
    payload = "\0".join((*times, user, channel, keys_hash))
    return hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
