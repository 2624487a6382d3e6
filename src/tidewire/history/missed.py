"""Reads what a subscriber missed, joined with what comes meanwhile: complete, or said not to be."""

from __future__ import annotations

import asyncio
from typing import Any
from typing import Protocol as TypingProtocol

import msgspec

from tidewire.backends.base import Broker
from tidewire.history.merge import Recovery, merge
from tidewire.history.read_steps import cost
from tidewire.history.shared_reads import HistoryReader, Share, Spawn
from tidewire.history.shown import History
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication
from tidewire.options import Limits
from tidewire.retention import Retention
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("Forms", "Meanwhile", "Missed", "RecoveryReader", "Subject")

#: What a layer above has made of the publications of one recovery, for all subscribers that are given the same ones.
Forms = dict[object, Any]
#: What came before, whether all of it is there (None: no recovery was asked for), and its forms.
Missed = tuple[Recovery, bool | None, Forms | None]
#: A recovery, how many of its newest publications fit a reply, and its forms.
_Made = tuple[Recovery, int, Forms]


class Meanwhile(TypingProtocol):
    """What a channel delivers while its history is read."""

    def buffered(self) -> tuple[Publication, ...]:
        """Return what was delivered since the subscribe began, in order."""

    def is_past(self, recovery: Recovery) -> bool:
        """Return whether more was delivered than a recovery knows of."""


class Subject(msgspec.Struct, frozen=True):
    """What is to be read: a channel that stands at a position, since when, or so many of the newest.

    A recovery of more than `most` publications is not given.
    """

    channel: str
    retention: Retention
    at: Position
    since: Position | None
    history: int
    most: int | None = None


class RecoveryReader:
    """Reads the publications that subscribers missed."""

    def __init__(self, broker: Broker, history: History, spawn: Spawn, limits: Limits) -> None:
        self._history = history
        self._limits = limits
        self._reader = HistoryReader[_Made](broker, spawn, limits.reply_bytes)

    async def read(self, subject: Subject, meanwhile: Meanwhile) -> Missed:
        """Return what came before; the forms are shared by all who are given the same.

        An answer that `meanwhile` is past is of no use. Raises StoreUnavailable.
        """
        since, most = subject.since, subject.most
        if since is not None:
            share = await self._reader.since(subject.channel, since, subject.retention, subject.at)
            await self._admitted()  # one read may serve thousands, and each of them is much work
            recovery, fitting, forms = self._merged(since, share, meanwhile.buffered())
            if meanwhile.is_past(recovery):  # it is read again
                return recovery, recovery.complete, forms
            if recovery.complete:
                if most is not None and len(recovery.publications) > most:
                    count_limit("history_messages")
                elif fitting == len(recovery.publications):
                    return recovery, True, forms
                else:
                    count_limit("reply_bytes")
            elif share.is_cut:
                count_limit("reply_bytes")
        return await self._read_newest(subject, meanwhile), None if since is None else False, None

    async def _read_newest(self, subject: Subject, meanwhile: Meanwhile) -> Recovery:
        wanted = max(subject.history, 0)
        request = HistoryRequest(subject.channel, subject.retention, limit=wanted, reverse=True)
        page = await self._history.read(request, most=self._limits.reply_bytes)
        await self._admitted()
        newest = HistoryPage(page.publications[::-1], page.top, complete=True)
        recovery = self._shown(merge(None, newest, meanwhile.buffered()))
        # what came meanwhile makes the oldest ones more than was asked for
        fitting = self._fitting(recovery)
        kept = min(fitting, wanted) if wanted else fitting
        if len(recovery.publications) > kept:
            publications = recovery.publications[len(recovery.publications) - kept :]
            recovery = msgspec.structs.replace(recovery, publications=publications)
        return recovery

    def _merged(
        self, since: Position, share: Share[_Made], buffered: tuple[Publication, ...]
    ) -> tuple[Recovery, int, Forms | None]:
        """Return what is shown of the missed publications, how many of them fit a reply, and their forms."""
        if not buffered:
            return share.once(lambda page: (*self._join(since, page, ()), {}))
        return *self._join(since, share.page, buffered), None

    def _join(self, since: Position, page: HistoryPage, buffered: tuple[Publication, ...]) -> tuple[Recovery, int]:
        recovery = self._shown(merge(since, page, buffered))
        return recovery, self._fitting(recovery)

    def _shown(self, recovery: Recovery) -> Recovery:
        """Leave out what history does not show; the position counts it."""
        return msgspec.structs.replace(recovery, publications=self._history.shown(recovery.publications))

    @property
    def reads(self) -> tuple[int, int]:
        """How many recoveries read the store themselves, and how many were given what another one read."""
        return self._reader.reads, self._reader.shared

    def forget(self, channel: str) -> None:
        """Give nothing again of a channel: its history was removed."""
        self._reader.forget(channel)

    async def _admitted(self) -> None:
        await Admission.of(asyncio.get_running_loop()).wait_admitted(self._limits.arrivals)

    def _fitting(self, recovery: Recovery) -> int:
        """Return how many of the newest publications one reply may hold."""
        size = 0
        for count, publication in enumerate(reversed(recovery.publications)):
            size += cost(publication)
            if size > self._limits.reply_bytes:
                return count
        return len(recovery.publications)
