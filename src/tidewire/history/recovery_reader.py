"""Reads the publications that a subscriber missed, up to those that come meanwhile: all, or it says that some lack."""

from __future__ import annotations

import asyncio
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.backends.base import Broker
from tidewire.errors import StoreUnavailable
from tidewire.history.read_steps import cost
from tidewire.history.recovery_merge import Recovery, merge
from tidewire.history.shared_reads import HistoryReader, Share, Spawn
from tidewire.history.shown_history import History
from tidewire.limits import Limits
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication
from tidewire.retention import Retention
from tidewire.support.admission import Admission
from tidewire.support.long_steps import LARGE, LongSteps

__all__ = ("Forms", "Meanwhile", "Missed", "RecoveryReader", "Subject")

#: Forms that a layer above has made of the publications of one recovery, for all subscribers that are given them.
Forms = dict[object, Any]
_Made = tuple[Recovery, Forms]

#: Bytes of a recovery that are read and given at once; the rest comes in further pages.
_PAGE = 256 * 1024
#: An epoch that no channel has.
_NO_EPOCH = "_"


class Missed(msgspec.Struct, frozen=True):
    """The answer to a subscriber before it is live: all of it, or a page, up to `recovery.position`."""

    recovery: Recovery
    #: Whether nothing is missing; None: no recovery was asked for.
    recovered: bool | None
    #: More comes behind this page.
    has_more: bool = False
    #: Shared by all subscribers that are given the same publications; None: they are this one's alone.
    forms: Forms | None = None


class Meanwhile(TypingProtocol):
    """The deliveries of a channel while its history is read."""

    def buffered(self) -> tuple[Publication, ...]:
        """Return the publications since the subscribe began, in order."""

    def is_past(self, recovery: Recovery) -> bool:
        """Return whether more was delivered than a recovery knows of."""


class Subject(msgspec.Struct, frozen=True):
    """The subject of a read: a channel that stands at a position, since when, or so many of the newest."""

    channel: str
    retention: Retention
    at: Position
    since: Position | None
    history: int


class RecoveryReader:
    """Reads the publications that subscribers missed."""

    def __init__(self, broker: Broker, history: History, spawn: Spawn, limits: Limits) -> None:
        self._history = history
        self._limits = limits
        self._spawn = spawn
        #: Looks for where the newest publications of a channel begin.
        self._starts: dict[tuple[str, int], asyncio.Task[Position]] = {}
        self._reader = HistoryReader[_Made](broker, spawn, min(_PAGE, limits.reply_bytes))

    async def read(self, subject: Subject, meanwhile: Meanwhile) -> Missed:
        """Return the first page after a position; where publications are gone, the newest `history`.

        An answer that `meanwhile` is past, and that has no more, is of no use. Raises StoreUnavailable.
        """
        since = subject.since
        if since is None:
            return await self._read_newest(subject, meanwhile)
        if "\0" in since.epoch:  # stores take no such text; a client may send it
            since = Position(0, _NO_EPOCH)
        share = await self._reader.since(subject.channel, since, subject.retention, subject.at)
        await self._admitted(share.page)  # one read may serve thousands, and each of them is much work
        recovery, forms = self._merged(since, share, () if share.is_cut else meanwhile.buffered())
        is_again = not share.is_cut and meanwhile.is_past(recovery)  # then it is read again
        if recovery.complete or is_again:
            return Missed(recovery, True, share.is_cut, forms)
        return await self._read_newest(subject, meanwhile)

    async def _read_newest(self, subject: Subject, meanwhile: Meanwhile, *, in_pages: bool = True) -> Missed:
        wanted = max(subject.history, 0)
        request = HistoryRequest(subject.channel, subject.retention, limit=wanted, reverse=True)
        page = await self._history.read(request, most=self._limits.reply_bytes)
        await self._admitted(page)
        recovered = None if subject.since is None else False
        if page.is_cut and wanted and in_pages:  # too much at once: from the oldest on
            oldest, left = page.publications[-1], wanted - len(page.publications)
            del page
            start = await self._start_of(subject, oldest, left)
            missed = await self.read(msgspec.structs.replace(subject, since=start, history=0), meanwhile)
            if missed.recovered:
                return msgspec.structs.replace(missed, recovered=recovered)
            return await self._read_newest(subject, meanwhile, in_pages=False)
        newest = HistoryPage(page.publications[::-1], page.top, complete=True)
        recovery = self._shown(merge(None, newest, meanwhile.buffered()))
        # with those that came meanwhile, the oldest ones are more than were asked for
        fitting = self._fitting(recovery)
        kept = min(fitting, wanted) if wanted else fitting
        if len(recovery.publications) > kept:
            publications = recovery.publications[len(recovery.publications) - kept :]
            recovery = msgspec.structs.replace(recovery, publications=publications)
        return Missed(recovery, recovered)

    async def _start_of(self, subject: Subject, oldest: Publication, left: int) -> Position:
        """Return where the newest publications begin, of which so many come before one; one look serves all."""
        key = subject.channel, subject.history
        look = self._starts.get(key)
        if look is None:
            look = self._spawn(self._find_start(subject, oldest, left))
            if look is None:
                raise StoreUnavailable(f"the history of {subject.channel!r} cannot be read: this node is closed")
            self._starts[key] = look
            look.add_done_callback(lambda _: self._starts.pop(key))
        start: Position = await asyncio.shield(look)
        return start

    async def _find_start(self, subject: Subject, oldest: Publication, left: int) -> Position:
        most = min(_PAGE, self._limits.reply_bytes)
        is_cut = True
        while left > 0 and is_cut:
            asked = HistoryRequest(subject.channel, subject.retention, oldest.position, left, reverse=True)
            page = await self._history.read(asked, most=most)
            left, is_cut = left - len(page.publications), page.is_cut
            oldest = page.publications[-1] if page.publications else oldest
            del page
        return Position(oldest.previous, oldest.epoch)

    def _merged(
        self, since: Position, share: Share[_Made], buffered: tuple[Publication, ...]
    ) -> tuple[Recovery, Forms | None]:
        """Return the missed publications that are shown, and their forms."""
        if buffered:
            return self._shown(merge(since, share.page, buffered)), None
        return share.once(lambda page: (self._page(since, page, share), {}))

    def _page(self, since: Position, page: HistoryPage, share: Share[_Made]) -> Recovery:
        """Return the publications that a page shows; unless it is the last, it ends with its last publication."""
        if share.is_cut:
            page = HistoryPage(page.publications, page.publications[-1].position, page.complete)
        return self._shown(merge(since, page, ()))

    def _shown(self, recovery: Recovery) -> Recovery:
        """Leave out publications that history does not show; the position counts them."""
        return msgspec.structs.replace(recovery, publications=self._history.shown(recovery.publications))

    @property
    def reads(self) -> tuple[int, int]:
        """How many recoveries read the store themselves, and how many shared the read of another one."""
        return self._reader.reads, self._reader.shared

    def forget(self, channel: str) -> None:
        """Give nothing again of a channel: its history was removed."""
        self._reader.forget(channel)

    async def _admitted(self, page: HistoryPage) -> None:
        """Wait for a turn in which a page may be merged and encoded, which its reader does before it waits again."""
        loop = asyncio.get_running_loop()
        if sum(map(cost, page.publications)) >= LARGE:
            await LongSteps.of(loop).wait()
        else:
            await Admission.of(loop).wait_admitted(self._limits.arrivals)

    def _fitting(self, recovery: Recovery) -> int:
        """Return how many of the newest publications one reply may hold."""
        size = 0
        for count, publication in enumerate(reversed(recovery.publications)):
            size += cost(publication)
            if size > self._limits.reply_bytes:
                return count
        return len(recovery.publications)
