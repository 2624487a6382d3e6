"""The identity of a client, from its token or its endpoint's dependency, and when that ends."""

from __future__ import annotations

import asyncio
import time

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import PermissionDenied, TokenExpired
from tidewire.rules.base import Caller, Grant, Identity

__all__ = ("Credentials", "end_of", "ttl_of")

#: The longest time to live that a client is told.
_LONGEST_TTL = 365 * 86_400
_NO_CHANNELS: frozenset[str] = frozenset()


def ttl_of(expires_at: float | None) -> int:
    """Return the seconds to tell a client, at least 1; 0 when there is no end."""
    if expires_at is None:
        return 0
    return max(1, min(_LONGEST_TTL, round(expires_at - time.time())))


def end_of(expires_at: float | None) -> float | None:
    """Return an end in seconds since 1970 by the loop's clock, which nobody sets: a jump of the other moves no end."""
    return None if expires_at is None else asyncio.get_running_loop().time() + expires_at - time.time()


class Credentials:
    """The identity of one client, which a refresh renews."""

    __slots__ = ("caller", "ends", "granted")

    def __init__(self, connection: str, identity: Identity, address: str = "") -> None:
        #: The channels that the client was given when it connected.
        self.granted = _NO_CHANNELS
        self.caller = Caller(connection, identity, address)
        #: When the identity ends, by the loop's clock.
        self.ends = end_of(identity.expires_at)

    @property
    def identity(self) -> Identity:
        """The identity of the client now."""
        return self.caller.identity

    def renew(self, identity: Identity) -> None:
        """Take another identity, or the same one with another end."""
        self.caller = msgspec.structs.replace(self.caller, identity=identity)
        self.ends = end_of(identity.expires_at)

    def check(self, channel: str, grant: Grant, node: Node) -> None:
        """Raise PermissionDenied for the grant of a token that was revoked, TokenExpired for one that has expired."""
        if node.is_revoked(self.identity.user, grant.token):
            raise PermissionDenied(f"the token for {channel!r} was revoked")
        if grant.expires_at is not None and grant.expires_at <= time.time():
            raise TokenExpired(f"the token for {channel!r} has expired; fetch another")

    def grant(self, channels: frozenset[str]) -> None:
        """Remember the channels that the client was given when it connected: a refresh that gives others is refused."""
        self.granted = channels
