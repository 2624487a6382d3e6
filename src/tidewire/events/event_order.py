"""Puts the events of each user and channel in order: a beginning, its end, the next beginning."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from tidewire.events.event_kinds import KINDS, Event, KeptEvent
from tidewire.messages import Publication

__all__ = ("EventOrder", "Known")

logger = logging.getLogger("tidewire")

#: Seconds until the end between two beginnings counts as missing, and until presence is asked where an event may be
#: missing.
_PATIENCE = 20.0
#: Users and channels of which a reader remembers the last event; those that are asked of presence in one step.
_REMEMBERED, _ASKED = 50_000, 100
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


class Known(NamedTuple):
    """All that is known of a key, for a later reader."""

    key: Key
    last: _Last | None
    early: tuple[KeptEvent, Event] | None
    doubted: KeptEvent | None


class EventOrder:
    """Yields beginnings and ends in turn: each once, and an end before the next beginning.

    Two nodes may publish events of one user at the same moment; then the later beginning may be kept before the earlier
    end. And a worker may be killed before it has published a beginning, or after an end that was none: each node
    publishes the beginning of its first member of a user, marked `again` if it is not the first of all. Such a
    beginning is yielded if no other came before it. Where the order leaves open which is true, presence decides.

    `take` depends on the stream alone: a later reader that goes on from what was known at some place knows the same at
    each place behind it.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[Key, _Last] = OrderedDict()
        #: The keys that have ended, the earliest first.
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._early: dict[Key, _Early] = {}
        self._doubts: dict[Key, _Doubt] = {}
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
        if found.missing and not self._is_missing(key, found.missing):
            return []  # another one came before it
        return self._take_begin(key, found, event) if is_begin else self._take_end(key, found, event)

    def known(self) -> Iterator[Known]:
        """Yield what is known, that of the longest ago first; nothing is taken meanwhile."""
        for key in {**dict.fromkeys(self._last), **dict.fromkeys(self._early), **dict.fromkeys(self._doubts)}:
            early, doubt = self._early.get(key), self._doubts.get(key)
            yield Known(key, self._last.get(key), early and (early.begin, early.event), doubt and doubt.begin)

    def learn(self, found: Iterable[Known]) -> None:
        """Go on from what another reader has known."""
        until = _now() + _PATIENCE
        for key, last, early, doubted in found:
            if last is not None:
                self._remember(key, last)
            if early is not None:
                self._early[key] = _Early(until, *early)
            if doubted is not None:
                self._doubts[key] = _Doubt(until, doubted)

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
        self._ended.pop(key, None)
        if not last.has_begun:
            self._ended[key] = None
        if len(self._last) > _REMEMBERED:
            self._forget()

    def _forget(self) -> None:
        """Forget the key that ended the longest ago, or else the one that began then."""
        if self._ended:
            del self._last[self._ended.popitem(last=False)[0]]
        else:
            self._last.popitem(last=False)
            self.has_seen_all = False


def _key(begin: KeptEvent) -> Key:
    return begin.kind, begin.channel, begin.member


def _now() -> float:
    return asyncio.get_running_loop().time()
