"""Puts the events of each user and channel in order: a beginning, its end, the next beginning."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from tidewire.events.event_kinds import KINDS, Event, KeptEvent
from tidewire.messages import Position, Publication

__all__ = ("EventOrder",)

logger = logging.getLogger("tidewire")

#: Seconds until the end between two beginnings counts as missing, and until presence is asked where an event may be
#: missing.
_PATIENCE = 20.0
#: Users and channels of which a reader remembers the last event; those that are asked of presence in one step.
_REMEMBERED, _ASKED = 50_000, 100
#: Events after which a reader publishes reminders of old beginnings; less than half of those that later readers recall.
_REMINDED = 20_000
_BEGINNINGS = {end: begin for begin, end in KINDS.items()}

#: The kind of the beginning, the channel, and the member.
Key = tuple[str, str, str]


class _Last(NamedTuple):
    """The last event that was yielded of a key.

    `is_sure`: it is a beginning by the first node; others may publish the same one. `is_unclear`: another event of its
    kind was left out since.
    """

    id: str
    has_begun: bool
    is_sure: bool
    is_unclear: bool = False


class _Early(NamedTuple):
    """A beginning that waits for an end, and when that end is missed."""

    until: float
    begin: KeptEvent
    event: Event


class _Doubt(NamedTuple):
    """The time at which presence is asked whether an event is missing; two equal answers decide."""

    until: float
    begin: KeptEvent
    was_wrong: bool = False


class _Trace(NamedTuple):
    """The newest event from which a later reader knows that a key has begun: its number, and its place."""

    number: int
    offset: int
    user: str


class EventOrder:
    """Yields beginnings and ends in turn: each once, and an end before the next beginning.

    Two nodes may publish events of one user at the same moment; then the later beginning may be kept before the earlier
    end. And a worker may be killed before it has published a beginning, or after an end that was none: each node
    publishes the beginning of its first member of a user, marked `again` if it is not the first of all. Such a
    beginning is yielded if no other came before it. Where the order leaves open which is true, presence decides. A
    later reader recalls only the newest events: reminders tell it of earlier beginnings, and there are no more
    reminders than other events.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[Key, _Last] = OrderedDict()
        self._early: dict[Key, _Early] = {}
        self._doubts: dict[Key, _Doubt] = {}
        #: The keys that have begun, the earliest first.
        self._traces: OrderedDict[Key, _Trace] = OrderedDict()
        self._taken = self._spare = 0
        self._start: Position | None = None
        self._top: Position | None = None
        #: Whether there is no beginning that it does not remember; None before the first event.
        self.has_seen_all: bool | None = None

    def take(self, publication: Publication) -> list[Event]:
        """Return the events that are due with a publication."""
        try:
            found = msgspec.json.decode(publication.data, type=KeptEvent)
        except msgspec.MsgspecError:
            logger.warning("event %s is of another version, and is left out", publication.position)
            return []
        event = Event(str(publication.position), found.kind, found.channel, found.user, publication.time)
        if self.has_seen_all is None:
            self.has_seen_all = publication.previous == 0
        is_begin = found.kind in KINDS
        key = (found.kind if is_begin else _BEGINNINGS.get(found.kind, ""), found.channel, found.member)
        self._count(publication, is_reminder=bool(found.known))
        if found.known:
            return self._take_reminder(key, found, publication)
        if found.missing and not self._is_missing(key, found.missing):
            return []  # another one came before it
        before = self._last.get(key)
        due = self._take_begin(key, found, event) if is_begin else self._take_end(key, found, event)
        last = self._last.get(key)
        if last is None or not last.has_begun:
            self._traces.pop(key, None)
        elif before is None or last.id != before.id:
            self._trace(key, found, publication, is_plain=is_begin and not found.missing)
        return due

    def _count(self, publication: Publication, *, is_reminder: bool) -> None:
        self._taken += 1
        self._spare = min(self._spare + (-1 if is_reminder else 1), _REMINDED)
        if self._start is None or self._start.epoch != publication.epoch:
            self._start = Position(publication.previous, publication.epoch)
        self._top = publication.position

    def _take_reminder(self, key: Key, found: KeptEvent, publication: Publication) -> list[Event]:
        id_, _, place = found.known.partition(" ")
        last = self._last.get(key)
        if last is None or not last.has_begun:
            since, read = (str(self._start) if last is None else last.id), Position.parse(place)
            if not since or not _is_since(read, Position.parse(since)):
                return []  # it may have ended after that place
            self._remember(key, _Last(id_, has_begun=True, is_sure=True, is_unclear=True))
        elif last.id != id_:
            return []
        self._last.move_to_end(key)
        self._trace(key, found, publication, is_plain=True)
        return []

    def _trace(self, key: Key, found: KeptEvent, publication: Publication, *, is_plain: bool) -> None:
        """Note an event; remind later readers soon of one that they understand only by those before it."""
        number = self._taken if is_plain else self._taken - _REMINDED
        self._traces[key] = _Trace(number, publication.offset, found.user)
        self._traces.move_to_end(key, last=is_plain)

    def reminders(self) -> list[tuple[str, KeptEvent]]:
        """Return some events that remind later readers of beginnings, each with its publish key."""
        due: list[tuple[str, KeptEvent]] = []
        for key, trace in self._traces.items():
            if trace.number > self._taken - _REMINDED or len(due) >= min(self._spare, _ASKED):
                break
            if key not in self._early:
                id_ = self._last[key].id
                known = f"{id_} {self._top}"
                event = KeptEvent(key[0], key[1], trace.user, key[2], again=True, known=known)
                due.append((f"known {id_} {trace.offset}", event))
        return due

    def _take_begin(self, key: Key, found: KeptEvent, event: Event) -> list[Event]:
        last = self._last.get(key)
        if last is None and found.again and not self.has_seen_all:
            # it has been there for longer than is remembered
            self._remember(key, _Last(event.id, has_begun=True, is_sure=False, is_unclear=True))
            self._doubt(key, found)
            return []
        if last is None or not last.has_begun:
            is_sure = not found.again and not found.missing
            self._remember(key, _Last(event.id, has_begun=True, is_sure=is_sure))
            if not is_sure or (last is not None and last.is_unclear):
                self._doubt(key, found)
            return [event]
        if found.again or not last.is_sure:
            self._last[key] = last._replace(is_sure=last.is_sure or not found.again, is_unclear=True)
        elif key not in self._early:
            self._early[key] = _Early(_now() + _PATIENCE, found, event)
        return []

    def _take_end(self, key: Key, found: KeptEvent, event: Event) -> list[Event]:
        last = self._last.get(key)
        if self.has_seen_all if last is None else not last.has_begun:
            # it was published already, or the beginning was not, because a worker was killed or stalls
            if last is None:
                self._remember(key, _Last("", has_begun=False, is_sure=True, is_unclear=True))
            else:
                self._last[key] = last._replace(is_unclear=True)
            return []
        early = self._early.pop(key, None)
        self._remember(key, _Last(early.event.id if early else event.id, has_begun=early is not None, is_sure=True))
        if found.again or found.missing or early is not None or (last is not None and last.is_unclear):
            self._doubt(key, found)
        return [event] if early is None else [event, early.event]

    def overdue(self) -> list[KeptEvent]:
        """Return the ends that are surely missing, because their users have begun again."""
        now, due = _now(), []
        for key, early in self._early.items():
            if early.until <= now:
                self._early[key] = early._replace(until=now + _PATIENCE)
                missing = f"before {early.event.id}"
                due.append(msgspec.structs.replace(early.begin, kind=KINDS[early.begin.kind], missing=missing))
        return due

    def doubtful(self) -> list[KeptEvent]:
        """Return some beginnings of which presence is asked now; `settle` takes the answer."""
        now = _now()
        return [doubt.begin for doubt in self._doubts.values() if doubt.until <= now][:_ASKED]

    def settle(self, begin: KeptEvent, *, is_there: bool) -> KeptEvent | None:
        """Take the answer of presence about a doubtful beginning; return the event that is missing."""
        key = _key(begin)
        doubt, last = self._doubts.pop(key, None), self._last.get(key)
        if doubt is None or last is None or last.has_begun is is_there:
            return None
        if not doubt.was_wrong:  # the members of a node that closes are not listed, and may be back in a moment
            self._doubts[key] = doubt._replace(until=_now() + _PATIENCE / 4, was_wrong=True)
            return None
        self._doubt(key, begin)  # until it is published
        kind = begin.kind if is_there else KINDS[begin.kind]
        return msgspec.structs.replace(begin, kind=kind, missing=f"after {last.id}")

    def _doubt(self, key: Key, found: KeptEvent) -> None:
        begin = msgspec.structs.replace(found, kind=key[0], missing="", again=False)
        self._doubts[key] = _Doubt(_now() + _PATIENCE, begin)

    def _is_missing(self, key: Key, missing: str) -> bool:
        where, _, id_ = missing.partition(" ")
        if where == "before":
            return key in self._early and self._early[key].event.id == id_
        return key in self._last and self._last[key].id == id_

    def _remember(self, key: Key, last: _Last) -> None:
        self._doubts.pop(key, None)
        self._last[key] = last
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED:
            self._traces.pop(self._last.popitem(last=False)[0], None)
            self.has_seen_all = False


def _key(begin: KeptEvent) -> Key:
    return begin.kind, begin.channel, begin.member


def _is_since(read: Position, since: Position) -> bool:
    return read.epoch == since.epoch and read.offset >= since.offset


def _now() -> float:
    return asyncio.get_running_loop().time()
