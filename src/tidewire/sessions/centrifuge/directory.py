"""The sessions of one node: found by their secrets, and given the orders of all nodes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import Disconnect
from tidewire.messages import Position, Publication
from tidewire.rules.base import Grant
from tidewire.sessions.centrifuge.session_orders import (
    VERB,
    Disconnection,
    Order,
    Refreshing,
    Subscribing,
    Target,
    Unsubscribing,
)
from tidewire.sessions.per_node import PerNode

__all__ = ("Controlled", "Sessions")

logger = logging.getLogger("tidewire")


class Controlled(TypingProtocol):
    """The orders that a session takes (session.Session)."""

    connection: Connection
    secret: str

    @property
    def user(self) -> str:
        """The user that it belongs to; "": nobody known."""

    def kick(self, disconnect: Disconnect) -> None:
        """End it."""

    def force_subscribe(self, channel: str, grant: Grant, since: Position | None = None) -> None:
        """Subscribe it to a channel, and tell its client."""

    def force_unsubscribe(self, channel: str, code: int, reason: str) -> None:
        """Unsubscribe it from a channel, and tell its client."""

    def force_refresh(self, expires_at: float | None, *, expired: bool, info: bytes) -> None:
        """Set when it ends."""


class Sessions(PerNode):
    """Every connected session of a node. `of` returns those of a node, which obeys orders of all nodes from then on."""

    def __init__(self, node: Node) -> None:
        self._registry = node.registry
        self._by_secret: dict[str, Controlled] = {}
        self._by_client: dict[str, Controlled] = {}
        node.on_control(VERB, self._obey)

    def __len__(self) -> int:
        return len(self._by_client)

    def __iter__(self) -> Iterator[Controlled]:
        return iter(tuple(self._by_client.values()))

    def get(self, secret: str) -> Controlled | None:
        """Return the session with this secret."""
        return self._by_secret.get(secret)

    def of_connection(self, id_: str) -> Controlled | None:
        """Return the session of a connection."""
        return self._by_client.get(id_)

    def add(self, session: Controlled) -> None:
        """Add a session."""
        if session.secret:
            self._by_secret[session.secret] = session
        self._by_client[session.connection.id] = session

    def discard(self, session: Controlled) -> None:
        """Remove a session; harmless when it is not there."""
        self._by_secret.pop(session.secret, None)
        self._by_client.pop(session.connection.id, None)

    def _obey(self, publication: Publication) -> None:
        order: Order = msgspec.json.decode(publication.data, type=Order)
        if isinstance(order, Disconnection):
            self._disconnect(order)
            return
        for session in self._targets(order.target):
            if isinstance(order, Subscribing):
                session.force_subscribe(order.channel, order.grant, order.since)
            elif isinstance(order, Unsubscribing):
                session.force_unsubscribe(order.channel, order.code, order.reason)
            elif isinstance(order, Refreshing):
                session.force_refresh(order.expires_at, expired=order.expired, info=order.info)

    def _disconnect(self, order: Disconnection) -> None:
        targets = {session.connection.id: session for session in self._targets(order.target)}
        for session in targets.values():
            if session.connection.id not in order.spared:
                session.kick(order.disconnect)
        target = order.target
        if target.session:
            return
        # the same user's connections of other protocols
        others = [*self._registry.users.get(target.user, {}).values()]
        if not target.user and target.client in self._registry.connections:
            others = [self._registry.connections[target.client]]
        for connection in others:
            is_meant = target.client in ("", connection.id)
            is_meant = is_meant and connection.user == target.user
            if is_meant and connection.id not in targets and connection.id not in order.spared:
                connection.end(order.disconnect)

    def _targets(self, target: Target) -> list[Controlled]:
        if target.session:
            found = self._by_secret.get(target.session)
        elif target.client:
            found = self._by_client.get(target.client)
        elif target.user:
            users = self._registry.users.get(target.user, {})
            return [self._by_client[client] for client in tuple(users) if client in self._by_client]
        else:
            return [session for session in self if not session.user]
        return [found] if found is not None and found.user == target.user else []
