"""Tokens that were ended before they expire: known on all nodes, and kept in the store for those that start later."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict

import msgspec

from tidewire.channels import REVOKED as CHANNEL
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.messages import IssuedToken, Position, Publication, PublishRequest
from tidewire.protocols.close_codes import REVOKED
from tidewire.retention import Retention
from tidewire.support.counters import count_limit

__all__ = ("Revocation", "Revocations")

logger = logging.getLogger("tidewire")

#: Seconds between two reads of the stored revocations, in case that an outage was longer than a gap may be, or that
#: somebody emptied the store.
_READ_SECONDS = 10.0
#: How many are given to the store at once.
_AT_ONCE = 100


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ends the token with this id, or all tokens of a user that were issued before a time in seconds since 1970.

    `again` says that it was kept before, and that nodes that know it have ended its connections.
    """

    user: str = ""
    token: str = ""
    issued_before: float = 0.0
    again: bool = False


class Revocations:
    """The revocations of a hub. A connection whose token is revoked ends with 1008, and cannot come back with it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._broker = node.broker
        limits = node.limits
        self._most = limits.revocations
        self._retention = Retention(limits.revocations, limits.revocation_seconds)
        self._users: OrderedDict[str, float] = OrderedDict()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._read = Position(0, "")
        #: Those that the store may not have.
        self._unkept: OrderedDict[Revocation, None] = OrderedDict()

    async def start(self) -> None:
        """Learn of revocations, later ones and earlier ones; raises StoreUnavailable."""
        await self._node.channels.listen(CHANNEL, self.take)
        await self.load()
        self._node.tasks.start((("revocations", _READ_SECONDS, self.load),))
        self._node.judge_tokens(self.is_revoked)

    async def load(self) -> None:
        """Read the revocations that this node does not have yet, and give the store those that it has lost.

        Raises StoreUnavailable, PublishError.
        """
        since = self._read if self._read.epoch else None
        page = await self._broker.history(CHANNEL, since=since, retention=self._retention)
        if not page.complete:
            page = await self._broker.history(CHANNEL, retention=self._retention)
        kept = [one for one in map(_decoded, page.publications) if one is not None]
        if since is not None and page.top.epoch != since.epoch:
            stored = {(one.user, one.token, one.issued_before) for one in kept}
            for one in self._known():
                if (one.user, one.token, one.issued_before) not in stored:
                    self._keep_later(one)
        for one in kept:
            self._take(one)
        self._read = page.top
        await self._keep_now()

    async def _keep_now(self) -> None:
        """Give the store those that it may not have; one that it refuses holds up no other."""
        waiting = tuple(self._unkept)
        for first in range(0, len(waiting), _AT_ONCE):
            group = waiting[first : first + _AT_ONCE]
            results = await asyncio.gather(*map(self._keep, group), return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            if len(failures) == len(group):
                raise failures[0]

    async def _keep(self, revocation: Revocation) -> None:
        data = msgspec.json.encode(msgspec.structs.replace(revocation, again=True))
        key = hashlib.sha256(data).hexdigest()  # the same on all nodes, which do this at the same time
        await self._broker.publish(PublishRequest(CHANNEL, data, key=key, retention=self._retention))
        self._unkept.pop(revocation, None)

    def _known(self) -> list[Revocation]:
        tokens = [Revocation(user, token) for token, user in self._tokens.items()]
        return tokens + [Revocation(user, "", before) for user, before in self._users.items()]

    def _keep_later(self, revocation: Revocation) -> None:
        self._unkept[revocation] = None
        if len(self._unkept) > 2 * self._most:
            count_limit("revocations")
            self._unkept.popitem(last=False)

    async def revoke(self, revocation: Revocation) -> None:
        """Revoke on all nodes; returns when the store keeps it. Raises as `Broker.publish` does.

        A revocation that the store could not keep is valid on this node, and on all when the store is back.
        """
        data = msgspec.json.encode(revocation)
        self._take(revocation)
        try:
            await self._broker.publish(PublishRequest(CHANNEL, data, retention=self._retention))
        except (PublishError, StoreUnavailable, asyncio.CancelledError):
            self._keep_later(revocation)
            raise

    def take(self, publication: Publication) -> None:
        """Apply a revocation of any node."""
        revocation = _decoded(publication)
        if revocation is not None:
            self._take(revocation)

    def _take(self, revocation: Revocation) -> None:
        is_known = revocation.token in self._tokens
        if revocation.token:
            self._tokens[revocation.token] = revocation.user
        if revocation.issued_before:
            before = self._users.pop(revocation.user, 0.0)
            self._users[revocation.user] = max(before, revocation.issued_before)
            is_known = before >= revocation.issued_before
        for known in (self._tokens, self._users):
            if len(known) > self._most:
                count_limit("revocations")
                known.popitem(last=False)
        if not (revocation.again and is_known):
            self.end(revocation)

    def is_revoked(self, user: str, issued: IssuedToken | None) -> bool:
        """Return whether a token may not be used any more."""
        if issued is None:
            return False
        if issued.id and self._tokens.get(issued.id) in ("", user):
            return True
        return issued.issued_at is not None and issued.issued_at < self._users.get(user, 0.0)

    def tokens(self) -> list[tuple[str, IssuedToken]]:
        """Return the tokens with which the connections of this node were opened, each with its user."""
        connections = self._node.registry.connections.values()
        return [(connection.user, connection.token) for connection in connections if connection.token is not None]

    def end(self, revocation: Revocation) -> None:
        """End the connections of this node that a revocation is about, without keeping it."""
        registry = self._node.registry
        of_user = registry.users.get(revocation.user, {}) if revocation.user else registry.connections
        for connection in tuple(of_user.values()):
            if _concerns(revocation, connection):
                self._node.fanout.flush_for(connection)
                connection.end(REVOKED)


def _concerns(revocation: Revocation, connection: Connection) -> bool:
    issued = connection.token
    if revocation.token:
        return issued is not None and issued.id == revocation.token
    if issued is not None and issued.issued_at is not None:
        return issued.issued_at < revocation.issued_before
    # The time of its token is not known. It began before a revocation of now, but maybe after one that comes again.
    opened_at = time.time() - (time.monotonic() - connection.opened_at)
    return not revocation.again or opened_at < revocation.issued_before


def _decoded(publication: Publication) -> Revocation | None:
    try:
        return msgspec.json.decode(publication.data, type=Revocation)
    except msgspec.MsgspecError:
        logger.warning("a revocation of another version was not understood")
        return None
