"""The calls of the HTTP API about maps: entries are set, removed, read in pages, counted, and cleared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from pydantic import Field

from tidewire.channel_options import ChannelOptions, MapKind, MapOptions
from tidewire.engine.node import Node
from tidewire.errors import BadRequest, EntryChanged, NotAvailable, Unrecoverable
from tidewire.http_api import models as m
from tidewire.messages import Position
from tidewire.protocols.map_changes import Entry, change_of
from tidewire.protocols.meta import meta_of, tags_from
from tidewire.protocols.payload import encode_json
from tidewire.sessions.centrifuge.map_form import value_of
from tidewire.sessions.maps import ABSENT, Maps

__all__ = ("MapCalls",)

#: Changes of one answer.
_MOST = 1_000


class _OfKey(m.Request):
    channel: m.Channel
    key: str = Field(min_length=1, max_length=255, description="The key of the entry.", examples=["note-1"])
    idempotency_key: str = Field(default="", description="Not for maps: setting an entry twice is harmless.")


class MapPublishRequest(_OfKey):
    """Set the entry of a key in a channel that is a map."""

    payloads = frozenset({"data"})

    data: m.Payload | None = Field(default=None, description="The value.", examples=[{"text": "hello"}])
    b64data: m.Base64 = ""
    tags: Mapping[str, str] = Field(default={}, description="Words that subscribers can filter by.")
    delta: bool = Field(default=False, description="Accepted; subscribers that have negotiated deltas get them.")
    key_mode: Literal["", "if_new", "if_exists"] = Field(default="", description="Only if there is none, or one.")
    version: int = Field(default=0, ge=0, le=0, description="Not for maps.")
    score: int = Field(default=0, ge=0, le=0, description="Not for maps: entries are in the order of their keys.")


class MapRemoveRequest(_OfKey):
    """Remove the entry of a key in a channel that is a map."""


class MapChangeResult(m.Result):
    """The position of the change; `suppressed`: nothing was changed, for that reason."""

    offset: int = 0
    epoch: str = ""
    suppressed: bool = False
    suppress_reason: str = ""


class MapReadStateRequest(m.Request):
    """Read the entries of a map, in pages in the order of keys."""

    channel: m.Channel
    cursor: str = Field(default="", description="That of the answer before.")
    limit: int = Field(default=0, description="How many, at most 1000.")
    key: str = Field(default="", description="Only this one.")


class MapEntryResult(m.Result):
    """One entry, or a change of it."""

    key: str
    data: m.Payload | None = None
    tags: dict[str, str] = {}
    offset: int
    removed: bool = False
    time: int = 0


class MapReadStateResult(m.Result):
    """Entries, and the position at which they are so; with a `cursor` there are more."""

    entries: list[MapEntryResult]
    offset: int
    epoch: str
    cursor: str = ""


class MapReadStreamRequest(m.Request):
    """Read the changes of a map since a position."""

    channel: m.Channel
    since_offset: int = Field(default=0, ge=0)
    since_epoch: str = ""
    limit: int = Field(default=0, description="How many, at most 1000.")
    reverse: bool = False


class MapReadStreamResult(m.Result):
    """Changes, and the position of the newest publication."""

    entries: list[MapEntryResult]
    offset: int
    epoch: str


class MapStatsRequest(m.Request):
    """Count the entries of a map."""

    channel: m.Channel


class MapStatsResult(m.Result):
    """How many entries there are."""

    num_keys: int


class MapClearRequest(m.Request):
    """Remove all entries of a map."""

    channel: m.Channel


class MapCalls:
    """Answers calls about maps; raises CommandError, PublishError, StoreUnavailable."""

    def __init__(self, node: Node, options: Callable[[str], ChannelOptions]) -> None:
        self._node = node
        self._options = options

    def _map(self, channel: str, *, is_changed: bool = False) -> MapOptions:
        options = self._options(channel).map
        if options is None or (is_changed and options.kind is not MapKind.ENTRIES):
            raise NotAvailable(f"{channel!r} is no map that can be changed; its rule says map=True if it is one")
        return options

    def _check(self, request: _OfKey) -> MapOptions:
        if request.idempotency_key:
            raise BadRequest("an entry that is set twice is the same: leave idempotency_key out")
        return self._map(request.channel, is_changed=True)

    async def publish(self, request: MapPublishRequest) -> MapChangeResult:
        """Set an entry."""
        options = self._check(request)
        if request.b64data:
            raise BadRequest("the value of an entry is JSON; write it in `data`")
        value = value_of(b"" if request.data is None else bytes(request.data), self._node.limits.json_depth)
        maps, channel, key = Maps.of(self._node), request.channel, request.key
        expect = ABSENT if request.key_mode == "if_new" else None
        if request.key_mode == "if_exists":
            found = (await maps.entries(channel)).entries.get(key)
            if found is None:
                return MapChangeResult(suppressed=True, suppress_reason="key_not_found")
            expect = found.offset
        try:
            entry = await maps.set(channel, key, value, ttl=options.ttl, expect=expect, tags=tags_from(request.tags))
        except EntryChanged:
            if request.key_mode == "if_exists":
                return await self.publish(request)
            return MapChangeResult(suppressed=True, suppress_reason="key_exists")
        if self._options(channel).ephemeral:
            return MapChangeResult()
        return MapChangeResult(offset=entry.offset, epoch=(await maps.entries(channel)).position.epoch)

    async def remove(self, request: MapRemoveRequest) -> MapChangeResult:
        """Remove an entry."""
        self._check(request)
        maps = Maps.of(self._node)
        if not await maps.unset(request.channel, request.key):
            return MapChangeResult(suppressed=True, suppress_reason="key_not_found")
        if self._options(request.channel).ephemeral:
            return MapChangeResult()
        position = (await maps.entries(request.channel)).position
        return MapChangeResult(offset=position.offset, epoch=position.epoch)

    async def read_state(self, request: MapReadStateRequest) -> MapReadStateResult:
        """Return a page of entries."""
        self._map(request.channel)
        found = await Maps.of(self._node).entries(request.channel)
        page, cursor = found.page(request.cursor, request.limit)
        if request.key:
            page, cursor = [entry for entry in (found.entries.get(request.key),) if entry is not None], ""
        entries = [_shown(entry) for entry in page]
        result: dict[str, Any] = {"cursor": cursor} if cursor else {}
        return MapReadStateResult(entries=entries, offset=found.position.offset, epoch=found.position.epoch, **result)

    async def read_stream(self, request: MapReadStreamRequest) -> MapReadStreamResult:
        """Return changes since a position; raises Unrecoverable where not all of them are kept."""
        self._map(request.channel)
        retention = self._node.options.retentions[request.channel]
        if retention is None:
            raise NotAvailable(f"{request.channel!r} keeps no changes; read its entries")
        since = Position(request.since_offset, request.since_epoch) if request.since_offset else None
        limit = min(request.limit, _MOST) if request.limit > 0 else _MOST
        page = await self._node.broker.history(
            request.channel, since=since, limit=limit, reverse=request.reverse, retention=retention
        )
        if since is not None and not page.complete:
            raise Unrecoverable(f"{request.channel!r} no longer keeps all changes after offset {since.offset}")
        entries = []
        for one in page.publications:
            change = change_of(one)
            if change is None or not change.key:
                continue
            shown: dict[str, Any] = {"key": change.key, "offset": one.offset, "time": round(one.time * 1_000)}
            if isinstance(change.value, msgspec.Raw) and not change.removed:
                shown["data"] = change.value
            else:
                shown["removed"] = True
            if tags := meta_of(one.meta).tags:
                shown["tags"] = tags
            entries.append(MapEntryResult.model_validate(shown))
        return MapReadStreamResult(entries=entries, offset=page.top.offset, epoch=page.top.epoch)

    async def stats(self, request: MapStatsRequest) -> MapStatsResult:
        """Count entries."""
        self._map(request.channel)
        return MapStatsResult(num_keys=len((await Maps.of(self._node).entries(request.channel)).entries))

    async def clear(self, request: MapClearRequest) -> m.Empty:
        """Remove all entries."""
        self._map(request.channel, is_changed=True)
        await Maps.of(self._node).clear(request.channel)
        return m.Empty()


def _shown(entry: Entry) -> MapEntryResult:
    shown: dict[str, Any] = {
        "key": entry.key,
        "data": msgspec.Raw(encode_json(entry.value)),
        "offset": entry.offset,
        "time": round(entry.time * 1_000),
    }
    if entry.tags:
        shown["tags"] = entry.tags
    return MapEntryResult.model_validate(shown)
