"""The publications of a map: one entry for each key, of which the newest wins. Pure, and the same on every node."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

import msgspec

from tidewire.messages import Format, Position, Publication
from tidewire.protocols.centrifuge.messages import ClientInfo
from tidewire.protocols.meta import meta_of

__all__ = ("Change", "Copy", "Entry", "MapState", "change_of")

logger = logging.getLogger("tidewire")

#: Removed keys whose last change is remembered, and their bytes: longer than a store knows the key of a publication.
_REMEMBERED, _REMEMBERED_BYTES = 10_000, 1_048_576
#: Bytes that an entry costs beside its key and value, about.
_OVERHEAD = 100


class Change(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Sets the entry of a `key` to a `value`, or removes it; or removes all entries of an owner that has `left`.

    `by` distinguishes the changes of different callers; `retagged`: the entry before had other tags. Where no store
    orders changes, the one with the greatest `stamp` wins.
    """

    key: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    removed: bool = False
    left: str = ""
    owner: str = ""
    ttl: float = 0.0
    by: str = ""
    retagged: bool = False
    stamp: int = 0

    def encode(self) -> bytes:
        """Return the data of its publication."""
        return msgspec.json.encode(self)


class Entry(msgspec.Struct, frozen=True):
    """One entry: its value, the place of its change in the channel, and its owner ("": none).

    It ends `ttl` seconds after its `time`, in seconds since 1970; 0: never. `publisher` is the client that has set it.
    """

    key: str
    value: Any
    offset: int
    owner: str = ""
    ttl: float = 0.0
    time: float = 0.0
    tags: dict[str, str] = {}
    publisher: ClientInfo | None = None


class Copy(msgspec.Struct, frozen=True):
    """A whole map at one position, with the removed keys that are remembered."""

    position: Position
    entries: list[Entry]
    gone: dict[str, int]


_decode = msgspec.json.Decoder(Change).decode


def change_of(publication: Publication) -> Change | None:
    """Return the change in a publication; None for one that is no change, although its data looks like one."""
    if b'"change"' not in publication.meta or not meta_of(publication.meta).change:
        return None
    if publication.format is not Format.JSON or not publication.data.startswith(b"{"):
        return None
    try:
        change = _decode(publication.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    is_entry = bool(change.key) and (change.removed or change.value is not msgspec.UNSET)
    return change if is_entry or change.left else None


class MapState:
    """The entries of a map at a position; every node that applies the same publications has the same ones."""

    def __init__(self, copy: Copy | None = None) -> None:
        self.position = Position(0, "") if copy is None else copy.position
        self.entries = {} if copy is None else {entry.key: entry for entry in copy.entries}
        self._gone = OrderedDict({} if copy is None else copy.gone)
        self._gone_size = sum(map(_cost, self._gone))
        self._owned: dict[str, set[str]] = {}
        self.size = 0
        for entry in self.entries.values():
            self._count(entry, 1)
        #: The keys that the newest `left` has removed.
        self.left: tuple[str, ...] = ()
        #: The change at the newest offset of each key.
        self.by: dict[str, tuple[int, str]] = {}
        #: The removed keys that the newest change has pushed out of those that are remembered.
        self.forgotten: list[str] = []

    def _count(self, entry: Entry, sign: int) -> None:
        self.size += sign * _size_of(entry)
        if entry.owner:
            keys = self._owned.setdefault(entry.owner, set())
            keys.add(entry.key) if sign > 0 else keys.discard(entry.key)
            if not keys:
                del self._owned[entry.owner]

    def size_of(self, key: str) -> int:
        """Return the part of `size` that is the entry of a key, 0 where there is none."""
        entry = self.entries.get(key)
        return 0 if entry is None else _size_of(entry)

    @property
    def owners(self) -> set[str]:
        """The owners of entries, which leave with them."""
        return set(self._owned)

    def keys_of(self, owner: str) -> tuple[str, ...]:
        """Return the keys of an owner's entries."""
        return tuple(self._owned.get(owner, ()))

    def last(self, key: str) -> int:
        """Return the offset of the newest change of a key, 0 for one that is not remembered."""
        entry = self.entries.get(key)
        return self._gone.get(key, 0) if entry is None else entry.offset

    def apply(self, publication: Publication) -> Change | None:
        """Take the next publication of the channel; return its change, or None if there is none that can be read."""
        self.position = publication.position
        self.forgotten = []
        change = change_of(publication)
        if change is None:
            return None
        try:
            value = msgspec.json.decode(change.value) if isinstance(change.value, msgspec.Raw) else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            logger.error("the value of %r in %r at %s cannot be read", change.key, publication.channel, self.position)
            return None
        if change.left:
            self.left = self.keys_of(change.left)
            for key in self.left:
                self._remove(key, publication.offset)
            return change
        if change.removed:
            self._remove(change.key, publication.offset)
        else:
            self._drop(change.key)
            meta = meta_of(publication.meta)
            entry = self.entries[change.key] = Entry(
                change.key,
                value,
                publication.offset,
                change.owner,
                change.ttl,
                publication.time,
                meta.tags,
                meta.info,
            )
            self._count(entry, 1)
        self.by[change.key] = publication.offset, change.by
        return change

    def _remove(self, key: str, offset: int) -> None:
        self._drop(key)
        self._gone[key] = offset
        self._gone_size += _cost(key)
        while len(self._gone) > _REMEMBERED or self._gone_size > _REMEMBERED_BYTES:
            forgotten, _ = self._gone.popitem(last=False)
            self._gone_size -= _cost(forgotten)
            self.by.pop(forgotten, None)
            self.forgotten.append(forgotten)

    def _drop(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._count(entry, -1)
        elif self._gone.pop(key, None) is not None:
            self._gone_size -= _cost(key)

    def copy(self) -> Copy:
        """Return the whole map."""
        return Copy(self.position, list(self.entries.values()), dict(self._gone))


def _size_of(entry: Entry) -> int:
    return _cost(entry.key) + len(msgspec.json.encode(entry.value))


def _cost(key: str) -> int:
    """Return the bytes of a key and what is kept beside it, about."""
    return len(key.encode()) + _OVERHEAD
