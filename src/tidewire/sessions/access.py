"""Channels that a client of a native protocol may use: by their options, or by the decision of a rule."""

from __future__ import annotations

from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import NotAvailable, PermissionDenied
from tidewire.messages import Format, Membership
from tidewire.rules.base import Action, Caller, Identity
from tidewire.rules.rule_authority import RuleAuthority

__all__ = ("Access",)

_ABSENT = Membership()


class Access:
    """Decides for one client, or for one that has no connection yet.

    A native protocol cannot prolong a permission, so one that ends is none.
    """

    __slots__ = ("_authority", "_caller", "_connection", "_node")

    def __init__(
        self, node: Node, authority: RuleAuthority, identity: Identity, connection: Connection | None = None
    ) -> None:
        self._node = node
        self._authority = authority
        self._connection = connection
        id_, address = ("", "") if connection is None else (connection.id, connection.address)
        self._caller = Caller(id_, identity, address)

    async def subscribe(self, channel: str) -> Membership:
        """Return how the client is present in a channel that it may subscribe to; raises CommandError otherwise."""
        if self._node.options.of(channel).subscribe:
            return _ABSENT
        if not self._authority.has_rule(channel):
            raise PermissionDenied(f"clients do not subscribe to {channel!r}")
        grant = await self._authority.subscribe(self._caller, channel, "", b"")
        if grant.expires_at is not None:
            raise NotAvailable(f"the permission for {channel!r} ends, and this protocol cannot ask for another")
        return Membership(present=grant.options.presence, info=grant.info)

    async def take(self, channel: str, data: bytes, format_: Format) -> tuple[bytes, Format] | None:
        """Return the message to keep for one that the client publishes, None for none; raises CommandError."""
        if not self._node.options.of(channel).publish:
            if not self._authority.has_rule(channel):
                raise PermissionDenied(f"clients do not publish in {channel!r}")
            await self._authority.allow(self._caller, channel, Action.PUBLISH, subscribed=self._is_subscribed(channel))
        intake = self._authority.intake(channel)
        return (data, format_) if intake is None else await intake(self._caller, data, format_)

    def _is_subscribed(self, channel: str) -> bool:
        return self._connection is not None and channel in self._node.registry.subscriptions(self._connection)
