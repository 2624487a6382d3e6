"""Reads the events in order, from the last reader's place: one node of all, and another one if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from tidewire.channels import HAPPENED, watched
from tidewire.engine.node import Node
from tidewire.errors import PublishError, StoreUnavailable
from tidewire.events.event import KINDS, Event, KeptEvent, shadow_of
from tidewire.messages import Member, Position, Publication

__all__ = ("Cursor", "Leadership", "events_of")

logger = logging.getLogger("tidewire")

_LEADER = watched("leader")
_PAGE = 200
#: Seconds between two looks where nothing wakes the reader, and for the end of what has begun twice.
_LOOK_SECONDS, _PATIENCE = 1.0, 20.0
#: Users and channels of which a reader remembers the last event, and events before its position that a new one reads.
_REMEMBERED, _RECALLED = 50_000, 50_000
#: Events after which a new reader lets others have a turn.
_TURN = 500
_BEGINNINGS = {end: begin for begin, end in KINDS.items()}


class Cursor:
    """How far one consumer has come, kept in the store for whoever comes after it."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._channel = watched(f"done:{name}")
        self._saved: Position | None = None

    async def load(self) -> Position | None:
        """Return where it was; None: at the beginning."""
        page = await self._node.broker.history(self._channel, limit=1, reverse=True)
        for publication in page.publications:
            self._saved = Position.parse(publication.data.decode())
        return self._saved

    async def save(self, position: Position | None) -> None:
        """Keep where it is; a store that is away keeps it the next time."""
        if position is None or position == self._saved:
            return
        try:
            await self._node.publish(self._channel, str(position).encode(), ephemeral=False)
        except PublishError:
            return
        self._saved = position


class Leadership:
    """Which node consumes: of all that want to, the one that has been there the longest."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._member = Member(node.id, node.id)
        self._has_entered = False

    async def is_here(self) -> bool:
        """Return whether it is this node; raises StoreUnavailable."""
        if not self._has_entered:
            await self._node.memberships.enter(_LEADER, self._member)
            self._has_entered = True
        members = await self._node.presence.members(_LEADER)
        return bool(members) and members[0].connection == self._node.id

    async def resign(self) -> None:
        """Make room for another node."""
        if self._has_entered:
            self._has_entered = False
            try:
                await self._node.memberships.quit(_LEADER, self._member)
            except StoreUnavailable:
                logger.info("another node handles events when this one's lease has ended")


async def events_of(node: Node, since: Position | None, woken: asyncio.Event) -> AsyncIterator[tuple[Position, Event]]:
    """Yield the events since a position, for ever, each beginning before its end; raises StoreUnavailable.

    The position is that up to which everything before was yielded.
    """
    order = _Order()
    for number, publication in enumerate(await _earlier(node, since)):
        order.take(publication)
        if number % _TURN == 0:
            await asyncio.sleep(0)
    while True:
        woken.clear()
        page = await node.broker.history(HAPPENED, since=since, limit=_PAGE)
        if not page.publications and since is not None and since.epoch != page.top.epoch:
            since = Position(0, page.top.epoch)  # the store has lost what was before
            order.has_seen_all = False
            continue
        for publication in page.publications:
            since = publication.position
            for event in order.take(publication):
                yield since, event
        if len(page.publications) < _PAGE:  # an end that is missing is not among events that are still to be read
            await _tell_missing_ends(node, order)
        if not page.publications:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await woken.wait()
            except TimeoutError:
                pass


async def _earlier(node: Node, since: Position | None) -> list[Publication]:
    """Return the events up to a position, which another reader has told.

    By them a new reader knows the beginnings and the ends. A worker that is killed between telling an end and
    removing its member leaves a second end behind, and a beginning that waits for its end is before the position, too.
    """
    if since is None:
        return []
    before = Position(since.offset + 1, since.epoch)
    # in one read: on NATS each one reads more than it returns
    page = await node.broker.history(HAPPENED, since=before, limit=_RECALLED, reverse=True)
    return list(reversed(page.publications)) if page.top.epoch == since.epoch else []


async def _tell_missing_ends(node: Node, order: _Order) -> None:
    """Tell the ends that nobody has told and nobody will: in the stream, so that every reader is told the same."""
    for begin, is_certain in order.overdue():
        if not is_certain and await node.presence.count(shadow_of(begin), begin.member):
            order.trust(begin)
            continue
        missing = f"{'before' if is_certain else 'after'} {order.id_of(begin)}"
        end = msgspec.structs.replace(begin, kind=KINDS[begin.kind], missing=missing)
        with contextlib.suppress(PublishError):  # it is tried again
            await node.publish(HAPPENED, msgspec.json.encode(end), key=f"missing {missing}", ephemeral=False)


class _Begun(NamedTuple):
    """A beginning, when it is looked at, and the event that it is."""

    until: float
    begin: KeptEvent
    event: Event


class _Order:
    """Yields beginnings and ends in turn: what came twice once, and an end before the next beginning.

    Two nodes may tell of one user at the same moment; then the later beginning may be kept before the earlier end. And
    a user that is back before a dead worker's members are claimed begins twice, and ends once: that end may be the one
    of the second beginning, so that it is yielded before it. Presence knows then whether another end is missing.
    """

    def __init__(self) -> None:
        self._has_begun: OrderedDict[tuple[str, str, str], bool] = OrderedDict()
        self._early: dict[tuple[str, str, str], _Begun] = {}
        self._doubtful: dict[tuple[str, str, str], _Begun] = {}
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
        has_begun = self._has_begun.get(key)
        until = asyncio.get_running_loop().time() + _PATIENCE
        if is_begin and has_begun:
            self._early.setdefault(key, _Begun(until, found, event))
            return []
        if not is_begin and not has_begun and (self.has_seen_all or has_begun is False):
            return []  # it was told already, or a worker was killed before it could tell the beginning
        if found.missing and not self._is_missing(key, found.missing):
            return []  # another one came before it
        due = [event]
        self._doubtful.pop(key, None)
        if not is_begin and key in self._early:
            early = self._early.pop(key)
            self._doubtful[key] = early._replace(until=until)
            due.append(early.event)
        self._remember(key, due[-1].kind in KINDS)
        return due

    def overdue(self) -> list[tuple[KeptEvent, bool]]:
        """Return the beginnings before which, or after which, an end is missing, and whether it surely is."""
        now = asyncio.get_running_loop().time()
        due: list[tuple[KeptEvent, bool]] = []
        for waiting, is_certain in ((self._early, True), (self._doubtful, False)):
            for key, one in waiting.items():
                if one.until <= now:
                    waiting[key] = one._replace(until=now + _PATIENCE)
                    due.append((one.begin, is_certain))
        return due

    def trust(self, begin: KeptEvent) -> None:
        """Take note that a user who has begun is there."""
        self._doubtful.pop(_key(begin), None)

    def id_of(self, begin: KeptEvent) -> str:
        """Return the id of a beginning that is overdue."""
        key = _key(begin)
        return (self._early.get(key) or self._doubtful[key]).event.id

    def _is_missing(self, key: tuple[str, str, str], missing: str) -> bool:
        where, _, id_ = missing.partition(" ")
        one = (self._early if where == "before" else self._doubtful).get(key)
        return one is not None and one.event.id == id_

    def _remember(self, key: tuple[str, str, str], has_begun: bool) -> None:
        self._has_begun[key] = has_begun
        self._has_begun.move_to_end(key)
        if len(self._has_begun) > _REMEMBERED:
            self._has_begun.popitem(last=False)
            self.has_seen_all = False


def _key(begin: KeptEvent) -> tuple[str, str, str]:
    return begin.kind, begin.channel, begin.member
