"""How a client subscribes to a map: its entries in pages, then the changes since the first page, then live."""

from __future__ import annotations

import asyncio

import msgspec

from tidewire.channel_options import ChannelOptions, MapKind, MapOptions, SlowPolicy
from tidewire.engine.connection import Connection
from tidewire.engine.node import Node
from tidewire.engine.subscribing import Prepared
from tidewire.errors import BadRequest, NotAvailable, PermissionDenied, Unrecoverable
from tidewire.messages import MAX_OFFSET, Position
from tidewire.protocols.centrifuge import messages as m
from tidewire.protocols.centrifuge.encoding import CentrifugeProtocol
from tidewire.protocols.centrifuge.filters import count_nodes
from tidewire.protocols.centrifuge.messages import SubscribeRequest, raw
from tidewire.rules.base import Grant
from tidewire.sessions.centrifuge.credentials import ttl_of
from tidewire.sessions.centrifuge.map_form import KINDS, DeltaMapRepresentation, MapRepresentation
from tidewire.sessions.maps import Entries, Maps
from tidewire.sessions.reply_budget import ReplyBudget
from tidewire.support.counters import count_limit

__all__ = ("MapPages", "MapStart", "map_of", "map_result")

#: The phases: a client asks for the entries, or for the changes since it was given them; 0 in a reply: it is live.
_STREAM, _STATE = 1, 2


class _Begun(msgspec.Struct, frozen=True):
    """A client that is given a map in pages: its grant, and the position of the changes that it still needs."""

    grant: Grant
    since: Position


class MapStart(msgspec.Struct, frozen=True):
    """The begin of a client that is to be live: the changes since a position, and the last entries before it.

    Where nobody keeps changes, they are pushed when it is live; `since` is then a place of this node.
    """

    since: Position
    entries: list[m.Publication]
    representation: MapRepresentation
    is_recovering: bool
    is_kept: bool = True


def map_of(options: ChannelOptions, channel: str, type_: int) -> MapOptions:
    """Return the options of a map; raises NotAvailable for a channel that is no map of this type.

    A map that nobody keeps is not recoverable.
    """
    found = options.map
    if found is None or KINDS.get(type_) is not found.kind:
        raise NotAvailable(f"{channel!r} offers no subscription of type {type_}; its rule says map=True if it is a map")
    return msgspec.structs.replace(found, recoverable=False) if options.ephemeral else found


class MapPages:
    """The maps that one client is being given in pages."""

    __slots__ = ("_begun", "_connection", "_node", "_protocol")

    def __init__(self, node: Node, connection: Connection, protocol: CentrifugeProtocol) -> None:
        self._node = node
        self._connection = connection
        self._protocol = protocol
        self._begun: dict[str, _Begun] = {}

    def grant(self, request: SubscribeRequest) -> Grant | None:
        """Return the grant of a client that goes on with a map; raises PermissionDenied for one that has not begun."""
        is_later = bool(request.cursor) or (request.phase == _STREAM and not request.recover)
        goes_on = is_later and request.type in KINDS  # polled values have no pages
        begun = self._begun.get(request.channel)
        if not goes_on:
            self._begun.pop(request.channel, None)
            return None
        if begun is None:
            raise PermissionDenied(f"pages of {request.channel!r} begin with the first one; ask without a cursor")
        return begun.grant

    def count_others(self, channel: str) -> int:
        """Return how many maps beside that of a channel have begun."""
        return len(self._begun) - (channel in self._begun)

    def forget(self, channel: str) -> None:
        """Give up a subscribe that has begun."""
        self._begun.pop(channel, None)

    async def begin(self, grant: Grant, request: SubscribeRequest) -> m.SubscribeResult | MapStart:
        """Return a page of entries, or after the last the start of changes; raises CommandError, StoreUnavailable."""
        channel = request.channel
        options = map_of(grant.options, channel, request.type)
        representation = self._representation(grant.options, request, options)
        if request.phase == _STREAM:
            return self._since(request, options, representation)
        if request.phase != _STATE:
            raise BadRequest(f"a subscription to a map begins with phase {_STATE} or {_STREAM}, not {request.phase}")
        maps = Maps.of(self._node)
        maps.ask(channel, self._connection)
        await self._connection.link.wait_drained()
        state = await maps.current(channel)
        await ReplyBudget.of(asyncio.get_running_loop()).wait_turn()  # after the store: many answers may come at once
        entries = Entries(state.position, state.entries)
        begun = self._begun.get(channel) or _Begun(grant, entries.position)
        if begun.since.epoch != entries.position.epoch:
            self.forget(channel)
            raise Unrecoverable(f"{channel!r} began anew while its entries were read; read them again")
        page, cursor = entries.page(request.cursor, request.limit)
        is_kept = not grant.options.ephemeral
        found = page if is_kept else [msgspec.structs.replace(one, offset=0) for one in page]
        shown, last = representation.entries(found, self._node.limits.reply_bytes)
        if cursor := last or cursor:
            self._begun[channel] = begun
            since = begun.since if options.recoverable else Position(0, "")
            return m.SubscribeResult(
                epoch=since.epoch, offset=since.offset, type=request.type, phase=_STATE, cursor=cursor, state=shown
            )
        self.forget(channel)
        if isinstance(representation, DeltaMapRepresentation) and not request.cursor:
            representation.seed(page, entries.position.offset)
        return MapStart(begun.since, shown, representation, is_recovering=False, is_kept=is_kept)

    def _since(self, request: SubscribeRequest, options: MapOptions, representation: MapRepresentation) -> MapStart:
        if not options.recoverable:
            raise BadRequest(f"{request.channel!r} keeps no changes; ask for its entries (phase {_STATE})")
        begun = self._begun.pop(request.channel, None)
        if isinstance(representation, DeltaMapRepresentation):
            representation.forget()
        since = Position(min(request.offset, MAX_OFFSET), request.epoch)
        return MapStart(since, [], representation, is_recovering=begun is None)

    def _representation(
        self, options: ChannelOptions, request: SubscribeRequest, map_: MapOptions
    ) -> MapRepresentation:
        protocol, deflate = self._protocol, self._connection.link.deflate
        if request.tf is not None:
            if not options.tags_filter:
                raise BadRequest("this subscription cannot have a filter by tags")
            if count_nodes(request.tf) > self._node.limits.filter_nodes:
                count_limit("filter_nodes")
                raise BadRequest(f"a filter has at most {self._node.limits.filter_nodes} conditions")
        elif (
            request.delta
            and options.delta
            and not options.ephemeral
            and map_.kind is MapKind.ENTRIES
            and options.slow is SlowPolicy.DISCONNECT
        ):
            return DeltaMapRepresentation.of_channel(protocol, deflate, request.channel)
        return MapRepresentation.of_map(protocol, deflate, map_.kind, request.tf)


def map_result(start: MapStart, prepared: Prepared, grant: Grant, request: SubscribeRequest) -> m.SubscribeResult:
    """Return the reply that says that a client is live."""
    options = map_of(grant.options, request.channel, request.type)
    position = prepared.answer.position if options.recoverable else Position(0, "")
    is_recovered = start.is_recovering
    return m.SubscribeResult(
        expires=grant.expires_at is not None,
        ttl=ttl_of(grant.expires_at),
        recoverable=options.recoverable,
        positioned=options.recoverable,
        epoch=position.epoch,
        offset=position.offset,
        publications=start.representation.changes(prepared.answer.publications),
        recovered=is_recovered,
        was_recovering=is_recovered,
        data=raw(grant.data),
        delta=isinstance(start.representation, DeltaMapRepresentation),
        type=request.type,
        state=start.entries,
        publish_debounce=round(options.debounce * 1_000),
    )
