"""The store of one process: kept until the process ends."""

from __future__ import annotations

import secrets
import time
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter

from tidewire.backends.base import Broker, Deliver, JoinResult, Presence, Resumed, nothing_to_resume
from tidewire.errors import NotPublished
from tidewire.limits import Limits
from tidewire.messages import (
    Announcement,
    Departure,
    HistoryPage,
    HistoryRequest,
    Member,
    Position,
    Publication,
    PublishRequest,
)
from tidewire.retention import Retention
from tidewire.support.counters import count_limit

__all__ = ("MemoryBroker", "MemoryPresence")

#: Bytes that a publication costs beside its data, about.
_OVERHEAD = 256
_offset = attrgetter("offset")


class _Stream:
    """One channel's publications and top position."""

    __slots__ = ("epoch", "kept", "keys", "publications", "retention", "size", "top", "trimmed")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.top = 0
        #: The offset of the newest publication that is no longer here.
        self.trimmed = 0
        self.retention = Retention()
        self.publications: deque[Publication] = deque()
        #: Bytes of these.
        self.size = 0
        #: When each of them was kept, by the clock of ages; their own time is the wall clock's, which may jump.
        self.kept: deque[float] = deque()
        self.keys: OrderedDict[str, tuple[float, Position]] = OrderedDict()

    def add(self, publication: Publication, now: float) -> None:
        """Keep a publication, and remove those beyond the retention."""
        kept, retention = self.kept, self.retention
        self.publications.append(publication)
        kept.append(now)
        self.size += len(publication.data) + len(publication.meta) + _OVERHEAD
        most, oldest = retention.size, now - retention.age
        while kept and (len(kept) > most or kept[0] < oldest):
            self.drop_oldest()

    def drop_oldest(self) -> int:
        """Remove the oldest publication, and return its bytes."""
        self.kept.popleft()
        publication = self.publications.popleft()
        self.trimmed = publication.offset
        size = len(publication.data) + len(publication.meta) + _OVERHEAD
        self.size -= size
        return size

    def clear(self) -> None:
        """Remove all publications; the position stays."""
        self.publications.clear()
        self.kept.clear()
        self.size, self.trimmed = 0, self.top


class MemoryBroker(Broker):
    """Keeps publications in this process: `publish` never suspends, and delivers before it returns.

    There is no other node to deliver to, so no more is kept than the channel's retention shows.
    """

    waits = False
    kept = "in the memory of this process"

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, limits: Limits | None = None) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        #: Bytes of all publications, and the channels that have some: the one that was published to last comes last.
        self._size = 0
        self._filled: dict[str, _Stream] = {}
        self._epoch = secrets.token_hex(4)
        self._streams: dict[str, _Stream] = {}
        self._subscribed: set[str] = set()
        self._deliver: Deliver | None = None

    async def start(self, deliver: Deliver, resumed: Resumed = nothing_to_resume) -> None:
        self._deliver = deliver

    async def aclose(self) -> None:
        self._deliver = None

    async def subscribe(self, channel: str) -> Position:
        self._subscribed.add(channel)
        stream = self._stream(channel)
        return Position(stream.top, stream.epoch)

    async def unsubscribe(self, channel: str) -> None:
        self._subscribed.discard(channel)
        stream = self._streams.get(channel)
        if stream is not None and not stream.top:  # clients choose names: one that holds nothing is not remembered
            del self._streams[channel]

    async def publish(self, request: PublishRequest) -> Position:
        if self._deliver is None:
            raise NotPublished("the broker is not open; publish between its start and its close")
        channel = request.channel
        stream = self._streams.get(channel) or self._stream(channel)
        now = self._clock()
        if request.key:
            known = _known(stream, request.key, now)
            if known is not None:
                return known
        previous, size = stream.top, stream.size
        stream.top = offset = previous + 1
        publication = Publication(
            channel, offset, previous, stream.epoch, time.time(), request.data, request.format, request.meta
        )
        position = Position(offset, stream.epoch)
        if request.key:
            stream.keys[request.key] = (now + request.key_age, position)
        if request.retention is not None:
            stream.retention = request.retention
        stream.add(publication, now)
        self._bound(channel, stream, size)
        if channel in self._subscribed:
            self._deliver((publication,))
        return position

    async def read(self, request: HistoryRequest) -> HistoryPage:
        stream, since, limit = self._seen(request.channel), request.since, request.limit
        top = Position(stream.top, stream.epoch)
        if since is not None and since.epoch != stream.epoch:
            return HistoryPage((), top, complete=False)
        kept = stream.publications
        first, hidden = _first_shown(stream, request.retention, self._clock())
        end, complete = len(kept), True
        if request.reverse:
            end = end if since is None else bisect_left(kept, since.offset, first, key=_offset)
            size = max(0, end - first if limit is None else min(limit, end - first))
            found = islice(reversed(kept), len(kept) - end, len(kept) - end + size)
        else:
            first = first if since is None else bisect_right(kept, since.offset, first, key=_offset)
            complete = since is None or hidden <= since.offset <= stream.top
            found = islice(kept, first, end if limit is None else min(end, first + limit))
        return HistoryPage(tuple(found), top, complete)

    async def remove_history(self, channel: str) -> None:
        stream = self._seen(channel)
        self._size -= stream.size
        self._filled.pop(channel, None)
        stream.clear()

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        streams = {channel: self._seen(channel) for channel in channels}
        return {channel: Position(stream.top, stream.epoch) for channel, stream in streams.items()}

    def _bound(self, channel: str, stream: _Stream, size: int) -> None:
        """Remove publications beyond the limits in bytes, after a stream of this size has grown."""
        limits = self._limits
        if stream.size > limits.channel_history_bytes:
            count_limit("channel_history_bytes")
            while stream.size > limits.channel_history_bytes:
                stream.drop_oldest()
        self._size += stream.size - size
        self._filled.pop(channel, None)
        if stream.publications:
            self._filled[channel] = stream
        if self._size > limits.store_history_bytes:
            count_limit("store_history_bytes")
            self._shrink()

    def _shrink(self) -> None:
        """Remove the oldest publications of the channels that were not published to for longest."""
        while self._size > self._limits.store_history_bytes:
            name, stream = next(iter(self._filled.items()))
            self._size -= stream.drop_oldest()
            if not stream.publications:
                del self._filled[name]

    def _seen(self, channel: str) -> _Stream:
        """Return a stream to look at: clients choose names, and one that holds nothing is not remembered."""
        return self._streams.get(channel) or _Stream(self._epoch)

    def _stream(self, channel: str) -> _Stream:
        stream = self._streams.get(channel)
        if stream is None:
            stream = self._streams[channel] = _Stream(self._epoch)
        return stream


def _known(stream: _Stream, key: str, now: float) -> Position | None:
    """Return the position kept under a key; keys whose window is over are forgotten first."""
    while stream.keys:
        oldest = next(iter(stream.keys))
        if stream.keys[oldest][0] >= now:
            break
        del stream.keys[oldest]
    known = stream.keys.get(key)
    return known[1] if known is not None and known[0] >= now else None


def _first_shown(stream: _Stream, retention: Retention | None, now: float) -> tuple[int, int]:
    """Return the place of the first publication that retention shows, and the offset of the newest that it hides."""
    if retention is None:
        return 0, stream.trimmed
    kept = stream.publications
    first = max(
        bisect_right(kept, stream.top - retention.size, key=_offset),
        bisect_left(stream.kept, now - retention.age),
    )
    return first, kept[first].previous if first < len(kept) else stream.top


class _Room:
    """The members of one channel, and how many connections each user has there; those set aside, by connection."""

    __slots__ = ("aside", "members", "users")

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.users: Counter[str] = Counter()
        self.aside: dict[str, Member] = {}

    def set_aside(self, connection: str) -> None:
        """List and count a member no longer."""
        member = self.remove(connection)
        if member is not None:
            self.aside[connection] = member

    def take_aside(self, user: str) -> bool:
        """Forget the members of a user that were set aside; return whether there were some."""
        found = [connection for connection, member in self.aside.items() if member.user == user]
        for connection in found:
            del self.aside[connection]
        return bool(found)

    def add(self, member: Member) -> int:
        """Add or replace a member, in its place; returns how many connections the user has."""
        replaced = self.members.get(member.connection)
        if replaced is not None:
            self._uncount(replaced.user)
        self.members[member.connection] = member
        self.users[member.user] += 1
        return self.users[member.user]

    def remove(self, connection: str) -> Member | None:
        """Remove a member, if it is there."""
        member = self.members.pop(connection, None)
        if member is not None:
            self._uncount(member.user)
        return member

    def _uncount(self, user: str) -> None:
        self.users[user] -= 1
        if not self.users[user]:
            del self.users[user]


class MemoryPresence(Presence):
    """The members of the channels of this process."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}

    async def start(self, node: str) -> None:
        self.forget_all()

    async def aclose(self) -> None:
        self.forget_all()

    async def join(self, channel: str, member: Member, announcement: Announcement | None = None) -> JoinResult:
        room = self._rooms.get(channel)
        if room is None:
            room = self._rooms[channel] = _Room()
        was_aside = bool(room.aside) and room.take_aside(member.user)
        connections = room.add(member)
        return JoinResult(first=connections == 1 and not was_aside, connections=connections)

    async def leave(self, channel: str, connection: str) -> bool:
        room = self._rooms.get(channel)
        if room is None:
            return False
        member = room.remove(connection) or room.aside.pop(connection, None)
        if not room.members and not room.aside:
            del self._rooms[channel]
        if member is None or member.user in room.users:
            return False
        return all(other.user != member.user for other in room.aside.values())

    async def set_aside(self, channel: str, connection: str) -> None:
        room = self._rooms.get(channel)
        if room is not None:
            room.set_aside(connection)

    async def touch(self) -> bool:
        return True

    async def members(self, channel: str) -> list[Member]:
        return self.members_now(channel)

    def members_now(self, channel: str) -> list[Member]:
        """Return the members as `members` does, without waiting."""
        room = self._rooms.get(channel)
        return [] if room is None else list(room.members.values())

    def forget_all(self) -> None:
        """Forget every member, as a store does that has lost its data."""
        self._rooms.clear()

    async def count(self, channel: str, user: str | None = None) -> int:
        room = self._rooms.get(channel)
        if room is None:
            return 0
        return len(room.members) if user is None else room.users[user]

    async def claim(self, limit: int = 256) -> Sequence[Departure]:
        return ()

    async def forget(self, departures: Sequence[Departure]) -> None:
        return None
