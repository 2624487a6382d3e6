"""The maps of members of channels: one entry for each connection or user, that leaves as the member does."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from tidewire.channel_options import ChannelOptions
from tidewire.channels import clients_in, owners, users_in
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import AlreadySubscribed, CommandError, StoreUnavailable
from tidewire.messages import Announcement, Membership
from tidewire.protocols.centrifuge.messages import ClientInfo, raw
from tidewire.protocols.map_changes import Change
from tidewire.rules.base import Grant, Identity
from tidewire.sessions.maps import Maps

__all__ = ("MapMembers",)

logger = logging.getLogger("tidewire")


class MapMembers:
    """One connection in the maps of its channels.

    A member of presence is announced by changes of the map: its join sets an entry, and its leave, published by the
    node that notices it, removes the entry.
    """

    __slots__ = ("_connection", "_node")

    def __init__(self, node: Node, connection: Connection) -> None:
        self._node = node
        self._connection = connection

    async def enter(self, channel: str, grant: Grant, identity: Identity) -> None:
        """Enter the maps of a channel; a store that fails is logged, and the client stays subscribed."""
        options, connection = grant.options, self._connection
        if options.clients_map:
            info = ClientInfo(identity.user, connection.id, raw(identity.info), raw(grant.info))
            value = msgspec.Raw(msgspec.json.encode(info))
            await self._enter(options.clients_map + channel, clients_in, connection.id, value)
        if options.users_map and identity.user:
            await self._enter(options.users_map + channel, users_in, identity.user, msgspec.Raw(b"null"))

    async def _enter(self, name: str, members: Callable[[str], str], key: str, value: msgspec.Raw) -> None:
        maps = Maps.of(self._node)
        coming = Change(key, value, owner=key, by=maps.next_by())
        going = Change(key, removed=True, by=maps.next_by())
        try:
            maps.keep(name)
            await self._node.subscribe(
                self._connection,
                members(name),
                membership=Membership(join=Announcement(coming.encode()), leave=Announcement(going.encode())),
                reply=False,
            )
        except AlreadySubscribed:
            return
        except (StoreUnavailable, CommandError) as error:
            logger.warning("connection %s is not shown in the map %r: %s", self._connection.id, name, error)

    async def leave(self, channel: str, options: ChannelOptions) -> None:
        """Leave the maps of a channel, with the entries that the connection owns there."""
        for name in _memberships(channel, options):
            await self._node.unsubscribe(self._connection, name)

    def drop(self, channel: str, options: ChannelOptions) -> None:
        """Do as `leave` does, and wait for nothing."""
        for name in _memberships(channel, options):
            self._node.subscriptions.drop(self._connection, name)


def _memberships(channel: str, options: ChannelOptions) -> list[str]:
    found = []
    if options.clients_map:
        found.append(clients_in(options.clients_map + channel))
    if options.users_map:
        found.append(users_in(options.users_map + channel))
    if options.map is not None and options.map.owned:
        found.append(owners(channel))
    return found
