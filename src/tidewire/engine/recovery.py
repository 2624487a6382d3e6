"""Recovery: what a subscriber is given before it is live, complete or said not to be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from tidewire.backends.base import Broker
from tidewire.engine.registry import Channel
from tidewire.engine.subscription import Subscription
from tidewire.errors import StoreUnavailable
from tidewire.history.merge import Recovery, merge
from tidewire.history.read_steps import cost
from tidewire.history.shared_reads import HistoryReader, Share, Spawn
from tidewire.history.shown import History
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication
from tidewire.options import Limits
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit

__all__ = ("Forms", "Recoveries")

#: What a layer above has made of the publications of one recovery, for all subscribers that are given the same ones.
Forms = dict[object, Any]
#: A recovery, how many of its newest publications fit a reply, and its forms.
_Made = tuple[Recovery, int, Forms]

#: How often, and after how many seconds, history is read again that was behind what the store delivered.
_BEHIND_TRIES, _BEHIND_SECONDS = 25, 0.02


class Recoveries:
    """Reads the publications that subscribers missed."""

    def __init__(
        self,
        broker: Broker,
        history: History,
        spawn: Spawn,
        limits: Limits,
        *,
        on_epoch_changed: Callable[[Channel], None],
    ) -> None:
        self._history = history
        self._limits = limits
        self._reader = HistoryReader[_Made](broker, spawn, limits.reply_bytes)
        self._on_epoch_changed = on_epoch_changed
        #: Recoveries that were complete, or not.
        self.counts: Counter[bool] = Counter()

    async def recover(
        self,
        channel: Channel,
        subscription: Subscription,
        since: Position | None,
        history: int,
        most: int | None = None,
    ) -> tuple[Recovery, bool | None, Forms | None]:
        """Return what came before, whether all of it is there (None: no recovery was asked for), and its forms.

        A recovery of more than `most` publications is not given. The forms are shared by all who are given the same.

        What the channel delivers until the next suspension of the caller is in the answer. Raises StoreUnavailable.
        """
        history = min(history, channel.options.history_size)
        if since is None and history <= 0:
            return Recovery((), _beginning(channel, subscription), complete=True), None, None
        for _ in range(_BEHIND_TRIES):
            recovery, recovered, forms = await self._read(channel, subscription, since, history, most)
            if recovery.position.epoch != channel.position.epoch:
                self._on_epoch_changed(channel)  # which has to be noticed first
            elif not _is_behind(recovery, channel):
                if recovered is not None:
                    self.counts[recovered] += 1
                return recovery, recovered, forms
            await asyncio.sleep(_BEHIND_SECONDS)
        raise StoreUnavailable(f"the history of {channel.name!r} is behind what was delivered; try again")

    @property
    def reads(self) -> tuple[int, int]:
        """How many recoveries read the store themselves, and how many were given what another one read."""
        return self._reader.reads, self._reader.shared

    async def _read(
        self, channel: Channel, subscription: Subscription, since: Position | None, history: int, most: int | None
    ) -> tuple[Recovery, bool | None, Forms | None]:
        retention = channel.options.retention
        if since is not None:
            share = await self._reader.since(channel.name, since, retention, channel.position)
            await self._admitted()  # one read may serve thousands, and each of them is much work
            recovery, fitting, forms = self._merged(since, share, _buffered(channel, subscription))
            if _is_behind(recovery, channel):  # it is read again
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
        request = HistoryRequest(channel.name, retention, limit=max(history, 0), reverse=True)
        page = await self._history.read(request, most=self._limits.reply_bytes)
        await self._admitted()
        newest = HistoryPage(page.publications[::-1], page.top, complete=True)
        recovery = self._shown(merge(None, newest, _buffered(channel, subscription)))
        # what came meanwhile makes the oldest ones more than was asked for
        wanted = min(self._fitting(recovery), history) if history > 0 else self._fitting(recovery)
        if len(recovery.publications) > wanted:
            kept = recovery.publications[len(recovery.publications) - wanted :]
            recovery = msgspec.structs.replace(recovery, publications=kept)
        return recovery, None if since is None else False, None

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


def _beginning(channel: Channel, subscription: Subscription) -> Position:
    """Return where a subscriber begins that asks for nothing older.

    That is where its subscribe began and not where it has come to since: a client that is accepted, and whose endpoint
    then subscribes, expects what others say from that moment on.
    """
    began = subscription.began
    if began is None or subscription.resumed is not None or began.epoch != channel.position.epoch:
        return channel.position
    return began


def _is_behind(recovery: Recovery, channel: Channel) -> bool:
    """The store's answer is older than what it has delivered."""
    return recovery.position.epoch == channel.position.epoch and recovery.position.offset < channel.position.offset


def _buffered(channel: Channel, subscription: Subscription) -> tuple[Publication, ...]:
    return (*(subscription.buffer or ()), *channel.pending)
