"""Tickets: a client that has logged in fetches one over HTTPS, and connects with it once, within a minute.

So no lasting token is in a URL, from which logs would take it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from base64 import b64decode, b64encode

import jwt

from tidewire.channels import TICKETS
from tidewire.errors import ConfigurationError
from tidewire.hub import Hub
from tidewire.messages import Format, IssuedToken, Position, PublishRequest
from tidewire.retention import Retention
from tidewire.rules.base import Identity
from tidewire.support.shown_value import kind_of

__all__ = ("Tickets",)

#: Characters of a secret that cannot be guessed.
_SECRET = 32
_ALGORITHM = "HS256"


class Tickets:
    """Issues tickets that are valid once, on all nodes of a hub, for `seconds`.

    All workers have the same `secret`. A ticket is no token of `JwtIdentity`, even if the secret is the same. A store
    that has lost which tickets were used makes all earlier ones invalid.
    """

    def __init__(self, hub: Hub, secret: str, *, seconds: float = 60.0) -> None:
        if not isinstance(secret, str):
            raise ConfigurationError(
                f"the secret of tickets is {kind_of(secret)}; write a text of {_SECRET} characters"
            )
        if len(secret) < _SECRET:
            raise ConfigurationError(f"the secret of tickets has {len(secret)} characters; write {_SECRET} or more")
        self._hub = hub
        self._key = hashlib.sha256(b"tidewire ticket\0" + secret.encode()).digest()
        self._seconds = seconds

    async def issue(self, identity: Identity | str) -> str:
        """Return a ticket for a user; its connection ends when the identity expires. Raises StoreUnavailable."""
        given = Identity(identity) if isinstance(identity, str) else identity
        if not given.user:
            raise ConfigurationError("a ticket is for a user; this identity has none")
        issued = given.token or IssuedToken("", time.time())
        page = await self._hub.node.broker.history(TICKETS, limit=0)
        claims = {
            "sub": given.user,
            "jti": secrets.token_urlsafe(16),
            "exp": time.time() + self._seconds,
            "info": b64encode(given.info).decode(),
            "until": given.expires_at,
            "issued": [issued.id, issued.issued_at],
            "epoch": page.top.epoch,
        }
        return jwt.encode(claims, self._key, _ALGORITHM)

    async def redeem(self, ticket: str) -> Identity | None:
        """Return the identity in a ticket; None for a ticket that was used, has expired or is not valid.

        Raises StoreUnavailable, PublishError.
        """
        try:
            claims = jwt.decode(ticket, self._key, [_ALGORITHM], options={"require": ["sub", "jti", "exp"]})
        except jwt.PyJWTError:
            return None
        if not await self._is_first(claims["jti"], claims.get("epoch")):
            return None
        return Identity(
            claims["sub"],
            info=b64decode(claims["info"]),
            expires_at=claims["until"],
            token=IssuedToken(*claims["issued"]),
        )

    async def _is_first(self, ticket: str, epoch: str | None) -> bool:
        """Return whether a ticket was not used before: the store keeps the first of publications with the same key.

        A worker of an earlier version issues tickets without an epoch.
        """
        broker, mark, age = self._hub.node.broker, secrets.token_bytes(8), 2 * self._seconds
        retention = Retention(1_000_000, age)
        request = PublishRequest(TICKETS, mark, Format.BINARY, key=ticket, key_age=age, retention=retention)
        position = await broker.publish(request)
        if epoch not in (None, position.epoch):  # the store has lost what it kept, perhaps this ticket
            return False
        before = Position(position.offset - 1, position.epoch)
        page = await broker.history(TICKETS, since=before, limit=1, retention=retention)
        return bool(page.publications) and page.publications[0].data == mark
