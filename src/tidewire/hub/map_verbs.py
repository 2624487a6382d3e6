"""A channel that is a map: one entry for each key, and the newest wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidewire.channels import open_channel
from tidewire.engine.connection import Connection
from tidewire.errors import BadRequest
from tidewire.hub.lifecycle import HubLifecycle
from tidewire.protocols.map_changes import Entry
from tidewire.protocols.meta import tags_from
from tidewire.protocols.payload import connection_id
from tidewire.sessions.application import HubConnection
from tidewire.sessions.arguments import offset_from
from tidewire.sessions.maps import Entries, Maps
from tidewire.support.shown_value import shown

__all__ = ("MapVerbs",)


class MapVerbs(HubLifecycle):
    """The verbs of maps. Each change is a publication of the channel, so that subscribers see it, and recover it."""

    async def set(
        self,
        channel: str,
        key: str,
        value: Any,
        *,
        ttl: float = 0.0,
        expect: int | None = None,
        owner: HubConnection | str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Entry:
        """Set the entry of a key in a channel to a value that JSON can express; returns when the broker keeps it.

        After `ttl` seconds it is removed (0: never). With `expect`, it is set only if the entry is the one at this
        offset (`Entry.offset`; 0: there is none), or EntryChanged is raised: of several that expect the same, one
        succeeds. An entry with an `owner`, a connection of this process or its id, is removed when that ends, within
        15 s if its process dies. Clients may choose entries by their `tags`. Raises CommandError, PublishError,
        StoreUnavailable; ConfigurationError for a channel without history.
        """
        maps = Maps.of(self.node)
        return await maps.set(
            self._map(channel),
            key,
            value,
            ttl=ttl,
            expect=offset_from(expect),
            owner=self._connection(owner),
            tags=tags_from(tags),
        )

    async def unset(self, channel: str, key: str, *, expect: int | None = None) -> bool:
        """Remove the entry of a key; False: there was none. Raises as `set`."""
        return await Maps.of(self.node).unset(self._map(channel), key, expect=offset_from(expect))

    async def entries(self, channel: str) -> Entries:
        """Return all entries of a channel with its position: `listen(since=entries.position)` goes on from there.

        They include every change that returned before; of a map that nobody keeps, every one of this node. Raises
        StoreUnavailable.
        """
        return await Maps.of(self.node).entries(self._map(channel))

    def _map(self, channel: str) -> str:
        return open_channel(channel, self.limits.channel_name)

    def _connection(self, owner: HubConnection | str | None) -> Connection | None:
        if owner is None:
            return None
        connection = self.node.registry.connections.get(connection_id(owner, "owner"))
        if connection is None:
            raise BadRequest(
                f"owner={shown(owner)} is no connection of this process; write one of hub.connect, or its id"
            )
        return connection
