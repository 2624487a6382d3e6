"""The maps that this node uses: entries are set, removed and read, and leave with their owners."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from tidewire.channel_options import MapKind, SlowPolicy
from tidewire.channels import check_text, owners
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.errors import (
    AlreadySubscribed,
    BadRequest,
    ConfigurationError,
    EntryChanged,
    LimitExceeded,
    NotPublished,
    StoreUnavailable,
)
from tidewire.messages import Announcement, EphemeralPublication, Format, Membership, Position
from tidewire.protocols.centrifuge.messages import ClientInfo
from tidewire.protocols.map_changes import Change, Entry, MapState
from tidewire.protocols.meta import CHANGE, PublicationMeta
from tidewire.protocols.payload import encode_json
from tidewire.sessions.map_exchange import SharedReplica, check_expect
from tidewire.sessions.map_replica import KeptReplica, Replica
from tidewire.sessions.per_node import PerNode
from tidewire.support.counters import count_limit
from tidewire.support.networks import network_of
from tidewire.support.shown_value import shown

__all__ = ("ABSENT", "Entries", "Maps", "check_key")

logger = logging.getLogger("tidewire")

#: The `expect` of a key that has no entry.
ABSENT = 0
#: Characters of a key; seconds after which a map that nobody uses is read no more; seconds between two looks.
_KEY_CHARACTERS, _UNUSED, _LOOK = 255, 60.0, 1.0
#: Publications of callers that have taken the key of a change, behind which a change is tried.
_TOKENS = 16
#: Entries of one page, at most; entries that are removed at once.
_PAGE, _TOGETHER = 1_000, 100
T = TypeVar("T")
_numbers = itertools.count(1)


class Entries(msgspec.Struct, frozen=True):
    """The entries of a map by their keys, and the position of the channel at which they are so."""

    position: Position
    entries: dict[str, Entry]

    def values(self) -> dict[str, Any]:
        """Return the values alone."""
        return {key: entry.value for key, entry in self.entries.items()}

    def page(self, cursor: str = "", limit: int = 0) -> tuple[list[Entry], str]:
        """Return entries after a key, in the order of keys, and the key after which the next ones come ("": no more).

        Pages are not of one moment: changes meanwhile come after the position of the first.
        """
        most = min(limit, _PAGE) if limit > 0 else _PAGE
        keys: Iterable[str] = (key for key in self.entries if key > cursor) if cursor else self.entries
        chosen = heapq.nsmallest(most + 1, keys)
        return [self.entries[key] for key in chosen[:most]], chosen[most - 1] if len(chosen) > most else ""


class Maps(PerNode):
    """The maps of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._replicas: dict[str, Replica] = {}
        #: The user, or the address, of the client that asked first for a map in use.
        self._asked_by: dict[str, str] = {}
        self._is_closed = False
        node.tasks.start((("maps", _LOOK, self._look),))

    @classmethod
    async def close(cls, node: Node) -> None:
        """Keep the changes, before a node closes."""
        maps = cls.known(node)
        if maps is not None:
            maps._is_closed = True
            replicas, maps._replicas = maps._replicas, {}
            await asyncio.gather(*(replica.aclose() for replica in replicas.values()), return_exceptions=True)

    def _replica(self, channel: str) -> Replica:
        replica = self._replicas.get(channel)
        if replica is None:
            if self._is_closed:  # a step that began before goes on while the others end
                raise StoreUnavailable(f"the map in {channel!r} is read no more: the hub is closing")
            most = self._node.limits.readers
            if len(self._replicas) >= most:
                count_limit("readers")
                raise LimitExceeded(f"{most} maps are in use here, each by a reader; allow more (readers)")
            replica = self._replicas[channel] = self._begin(channel)
        return replica

    def _begin(self, channel: str) -> Replica:
        options, retention = self._node.options.of(channel), self._node.options.retentions[channel]
        if options.ephemeral and (options.map is None or options.map.kind is MapKind.ENTRIES):
            return SharedReplica(self._node, channel)
        if retention is None or retention.size < 2:
            raise ConfigurationError(f"a map needs a history, and {channel!r} has none; give it some")
        if options.slow is not SlowPolicy.DISCONNECT:
            raise ConfigurationError(
                f"a map needs every change, and {channel!r} leaves some out for slow readers; write "
                "slow=SlowPolicy.DISCONNECT"
            )
        return KeptReplica(self._node, channel, retention)

    def ask(self, channel: str, client: Connection) -> None:
        """Take a map into use for a client; raises LimitExceeded where its user has asked for too many."""
        if channel in self._replicas:
            return
        by, most = client.user or f"@{network_of(client.address)}", self._node.limits.maps_per_user
        if sum(one == by for one in self._asked_by.values()) >= most:
            count_limit("maps_per_user")
            raise LimitExceeded(f"a user has at most {most} maps in use (maps_per_user); try again in a minute")
        self._replica(channel)
        self._asked_by[channel] = by

    # Reading and changing.

    async def entries(self, channel: str) -> Entries:
        """Return the entries; raises StoreUnavailable."""
        state = await self.current(channel)
        return Entries(state.position, dict(state.entries))

    async def current(self, channel: str) -> MapState:
        """Return the map itself, which changes with it; raises StoreUnavailable."""
        return await self._replica(channel).wait_current()

    async def set(
        self,
        channel: str,
        key: str,
        value: Any,
        *,
        ttl: float = 0.0,
        expect: int | None = None,
        owner: Connection | None = None,
        tags: dict[str, str] | None = None,
        publisher: ClientInfo | None = None,
    ) -> Entry:
        """Set an entry, and return it; raises EntryChanged, CommandError, PublishError, StoreUnavailable.

        A value is checked where the channel's rule declares a type; JSON as it is (`msgspec.Raw`) was checked before.
        """
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 <= ttl < 1e9:
            raise BadRequest(f"ttl={shown(ttl)} is no number of seconds; write 0 for an entry that stays")
        data = value if isinstance(value, msgspec.Raw) else self._encoded(channel, value)
        if owner is not None:
            await self._own(channel, owner)
        key = check_key(key)
        change = Change(key, data, owner="" if owner is None else owner.id, ttl=float(ttl), by=self.next_by())
        meta = PublicationMeta(publisher, tags or {}, change=True)
        state, change = await self._change(channel, change, expect, meta)
        if owner is not None and owner.is_closed:  # it left meanwhile, perhaps before the entry came
            await self._node.publish(channel, Change(left=owner.id).encode(), meta=CHANGE, ephemeral=False)
        entry = state.entries.get(key)
        if entry is None or state.by.get(key, (0, ""))[1] != change.by:  # another change came behind it already
            offset = state.last(key)
            return Entry(key, msgspec.json.decode(data), offset, change.owner, change.ttl, 0.0, meta.tags, publisher)
        return entry

    def _encoded(self, channel: str, value: Any) -> msgspec.Raw:
        shape = self._node.options.shape(channel)
        if shape is None:
            return msgspec.Raw(encode_json(value))
        is_text = isinstance(value, str | bytes)
        data, format_ = shape.check(encode_json(value), Format.JSON) if is_text else shape.encode(value)
        return msgspec.Raw(data if format_ is Format.JSON else encode_json(value))

    async def unset(self, channel: str, key: str, *, expect: int | None = None) -> bool:
        """Remove an entry; False: there was none. Raises as `set`."""
        state = await self._replica(channel).wait_current()
        key = check_key(key)
        if key not in state.entries and expect in (None, ABSENT):
            return False
        await self._change(channel, Change(key, removed=True, by=self.next_by()), expect)
        return True

    async def clear(self, channel: str) -> None:
        """Remove all entries. Raises as `unset`."""
        keys = tuple((await self.entries(channel)).entries)
        await _together(keys, lambda key: self.unset(channel, key))

    def keep(self, channel: str) -> None:
        """Read a map that others change without asking here: joins and leaves of a channel are its changes."""
        self._replica(channel)

    def next_by(self) -> str:
        """Return an id for the next change of this node, which no other has."""
        return f"{self._node.id}{next(_numbers):x}"

    async def _change(
        self, channel: str, change: Change, expect: int | None, meta: PublicationMeta = PublicationMeta(change=True)
    ) -> tuple[MapState, Change]:
        """Make a change, and return it as it was made, with the map."""
        replica = self._replica(channel)
        if isinstance(replica, KeptReplica):
            async with replica.room():
                if not change.removed:
                    replica.check_size()
                return await self._keep_change(replica, change, expect, meta), change
        assert isinstance(replica, SharedReplica)
        check_expect(expect)
        state = await replica.wait_ready()
        return state, await replica.change(self._fitted(state, change, meta), meta)

    async def _keep_change(
        self, replica: KeptReplica, change: Change, expect: int | None, meta: PublicationMeta
    ) -> MapState:
        """Publish a change behind the newest one of its key: of two behind the same one, the store keeps the first."""
        channel, key, taken, tried = replica.channel, change.key, 0, 0
        while tried < _TOKENS:
            state = await (replica.wait_ready() if expect is None else replica.wait_current())
            last = state.last(key)
            current = last if key in state.entries else ABSENT
            if expect is not None and expect != current:
                raise EntryChanged(f"{key!r} in {channel!r} is at {current}, not at {expect}; read it again")
            behind = Position(last, state.position.epoch)
            position = await replica.publish(self._fitted(state, change, meta), meta.encode(), behind, taken)
            state = await replica.wait_reached(position)
            if state.position.epoch == position.epoch and state.last(key) == last:
                taken = position.offset  # a caller has published something else under this token
                tried += 1
                continue
            taken = 0
            offset, by = state.by.get(key, (0, ""))
            if by == change.by:
                return state
            if offset > position.offset and await self._was_kept(channel, position, change.by):
                return state
        raise NotPublished(
            f"{tried} publications in {channel!r} have the keys of changes of {key!r}; "
            'publish there with keys that do not begin with "map:"'
        )

    def _fitted(self, state: MapState, change: Change, meta: PublicationMeta) -> Change:
        """Return a change that says whether tags change, if there is room for it."""
        entry, most = state.entries.get(change.key), self._node.limits.map_bytes
        if change.removed:
            return change
        if state.size + len(change.encode()) > most + state.size_of(change.key):
            count_limit("map_bytes")
            raise LimitExceeded(f"a map has at most {most} bytes (map_bytes); remove some, or allow more")
        return msgspec.structs.replace(change, retagged=entry is not None and entry.tags != meta.tags)

    def since(self, channel: str, position: Position) -> list[EphemeralPublication]:
        """Return the newest change of each key since a position, of a map that nobody keeps."""
        replica = self._replicas.get(channel)
        return replica.since(position) if isinstance(replica, SharedReplica) else []

    async def _was_kept(self, channel: str, position: Position, by: str) -> bool:
        """Return whether the publication at a position is the change of a caller, where others have come behind it."""
        page = await self._node.broker.history(channel, since=Position(position.offset - 1, position.epoch), limit=1)
        return any(f'"by":"{by}"'.encode() in one.data for one in page.publications if one.offset == position.offset)

    # Owners.

    async def _own(self, channel: str, owner: Connection) -> None:
        """Make a connection a member of the owners: when it ends, or its node dies, its entries go."""
        leave = Announcement(Change(left=owner.id).encode())
        try:
            await self._node.subscribe(
                owner, owners(channel), membership=Membership(present=True, leave=leave), reply=False
            )
        except AlreadySubscribed:
            return

    # Time.

    async def _look(self) -> None:
        """Remove entries whose time is over, and read maps no more that nobody uses."""
        await asyncio.gather(*(self._look_at(channel, one) for channel, one in tuple(self._replicas.items())))

    async def _look_at(self, channel: str, replica: Replica) -> None:
        has_timed = any(entry.ttl for entry in replica.state.entries.values())
        if isinstance(replica, SharedReplica):
            await replica.look()
        elif isinstance(replica, KeptReplica) and has_timed:
            await self._expire(replica)
        is_unused = asyncio.get_running_loop().time() - replica.used_at > _UNUSED
        if is_unused and not (has_timed or replica.is_needed) and self._replicas.get(channel) is replica:
            del self._replicas[channel]
            self._asked_by.pop(channel, None)
            await replica.aclose()

    async def _expire(self, replica: KeptReplica) -> None:
        now = time.time()

        def over() -> list[Entry]:
            return [one for one in replica.state.entries.values() if one.ttl and one.time + one.ttl <= now]

        if over():
            try:
                position = (await replica.wait_current()).position
            except StoreUnavailable as error:
                logger.debug("entries of %r were not removed: %s", replica.channel, error)
            else:
                await _together(over(), lambda one: replica.show_removed(one.key, Position(one.offset, position.epoch)))


async def _together(each: Sequence[T], act: Callable[[T], Awaitable[object]]) -> None:
    """Do something for some at a time: for all of a large map at once is more than may wait for the store."""
    for at in range(0, len(each), _TOGETHER):
        await asyncio.gather(*map(act, each[at : at + _TOGETHER]))


def check_key(key: str) -> str:
    """Return a key if it is one; raises BadRequest."""
    name = check_text(key, "key")
    if not 0 < len(name) <= _KEY_CHARACTERS:
        raise BadRequest(f"key {name[:40]!r} has {len(name)} characters; write 1 to {_KEY_CHARACTERS}")
    return name
