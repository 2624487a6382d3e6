"""What a subscriber is given before it is live; one history read serves all recoveries that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from tidewire.backends.base import Broker
from tidewire.engine.history import read_shown
from tidewire.engine.registry import Channel
from tidewire.engine.subscription import Recovery, Subscription, merge
from tidewire.errors import StoreUnavailable
from tidewire.messages import HistoryPage, Position, Publication, Retention
from tidewire.options import Limits
from tidewire.protocols.meta import is_history
from tidewire.support.counters import count_limit
from tidewire.support.turns import Admission

__all__ = ("Forms", "HistoryReader", "Recoveries", "narrow")

#: Runs something in a task that somebody owns; None when that is over.
Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any] | None]
#: What was made of publications, for who is given the same ones.
Forms = dict[object, Any]

#: How often, and after how many seconds, history is read again that was behind what the store delivered.
_BEHIND_TRIES, _BEHIND_SECONDS = 25, 0.02
#: Seconds for which one read is given again, and to how many different positions what was made of it.
_AGAIN_SECONDS, _SHARES = 0.1, 64
#: The largest offset that every store can hold.
_LARGEST = (1 << 63) - 1


class Share:
    """What all get who stand at one position: the part of a page that comes after it, and what was made of that."""

    __slots__ = ("fitting", "forms", "page", "recovery")

    def __init__(self, page: HistoryPage) -> None:
        self.page = page
        #: The recovery of who had nothing delivered meanwhile, and how many of its newest publications fit a reply.
        self.recovery: Recovery | None = None
        self.fitting = 0
        #: How a layer above shows the publications of that recovery, by what it likes.
        self.forms: Forms = {}


class _Read:
    """One read, from the lowest position that it must serve; it begins when the one before has ended."""

    __slots__ = ("_shares", "answer", "lowest", "page")

    def __init__(self, lowest: Position) -> None:
        self.lowest = lowest
        self.answer: asyncio.Task[None] | None = None
        self.page: HistoryPage | None = None
        self._shares: dict[int, Share] = {}

    def share(self, since: Position) -> Share:
        """Return what comes after a position that is not before the lowest."""
        share = self._shares.get(since.offset)
        if share is None:
            assert self.page is not None
            share = Share(narrow(self.page, since))
            if len(self._shares) < _SHARES:
                self._shares[since.offset] = share
        return share

    def serves(self, since: Position, at: Position | None) -> bool:
        """Say whether a read that has ended is still the truth where a channel stands."""
        return self.page is not None and self.page.top == at and self.lowest.offset <= since.offset


class HistoryReader:
    """Reads history since a position, single-flight per channel: who asks during a read shares the next one.

    When many return at once, the store sees two reads for each channel, however many they are; who comes a moment later
    is given the same, unless the channel has gone on.
    """

    def __init__(self, broker: Broker, spawn: Spawn) -> None:
        self._broker = broker
        self._spawn = spawn
        self._next: dict[tuple[str, str], _Read] = {}
        self._current: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._ended: dict[tuple[str, str], _Read] = {}

    async def since(self, channel: str, since: Position, retention: Retention, at: Position | None = None) -> Share:
        """Return what `Broker.history` would; raises StoreUnavailable.

        `at` is where the channel stands for who is live: what was read there lately is given again.
        """
        if not 0 <= since.offset <= _LARGEST:  # no store has given this offset, and some could not even look for it
            page = await self._broker.history(channel, limit=0, retention=retention)
            return Share(HistoryPage((), page.top, complete=False))
        key = (channel, since.epoch)
        ended = self._ended.get(key)
        if ended is not None and ended.serves(since, at):
            return ended.share(since)
        joined = self._next.get(key)
        if joined is None:
            joined = _Read(since)
            joined.answer = self._spawn(self._read(key, joined, retention))
            if joined.answer is None:
                raise StoreUnavailable(f"the history of {channel!r} cannot be read: this node is closed")
            self._next[key] = joined
        elif since.offset < joined.lowest.offset:
            joined.lowest = since
        assert joined.answer is not None
        await asyncio.shield(joined.answer)
        return joined.share(since)

    def forget(self, channel: str) -> None:
        """Give nothing again of a channel: its history was removed."""
        for key in [key for key in self._ended if key[0] == channel]:
            del self._ended[key]

    async def _read(self, key: tuple[str, str], joined: _Read, retention: Retention) -> None:
        current = self._current.get(key)
        if current is not None:
            await asyncio.wait([current])
        del self._next[key]
        assert joined.answer is not None
        self._current[key] = joined.answer
        try:
            joined.page = await self._broker.history(key[0], since=joined.lowest, retention=retention)
        finally:
            if self._current.get(key) is joined.answer:
                del self._current[key]
        self._ended[key] = joined
        asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._expire, key, joined)

    def _expire(self, key: tuple[str, str], read: _Read) -> None:
        if self._ended.get(key) is read:
            del self._ended[key]


def narrow(page: HistoryPage, since: Position) -> HistoryPage:
    """Return the part of a page that comes after a position which is not before the page's own."""
    if since.epoch != page.top.epoch:
        return HistoryPage((), page.top, complete=False)
    rest = tuple(publication for publication in page.publications if publication.offset > since.offset)
    if since.offset > page.top.offset:
        return HistoryPage((), page.top, complete=False)
    if page.complete or since.offset == page.top.offset:
        return HistoryPage(rest, page.top, complete=True)
    return HistoryPage(rest, page.top, complete=bool(rest) and rest[0].previous <= since.offset)


class Recoveries:
    """Reads what subscribers missed: complete, or said not to be."""

    def __init__(
        self, broker: Broker, spawn: Spawn, limits: Limits, *, on_epoch_changed: Callable[[Channel], None]
    ) -> None:
        self._broker = broker
        self._limits = limits
        self._reader = HistoryReader(broker, spawn)
        self._on_epoch_changed = on_epoch_changed

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
                return recovery, recovered, forms
            await asyncio.sleep(_BEHIND_SECONDS)
        raise StoreUnavailable(f"the history of {channel.name!r} is behind what was delivered; try again")

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
        page = await read_shown(self._broker, channel.name, limit=max(history, 0), reverse=True, retention=retention)
        await self._admitted()
        newest = HistoryPage(page.publications[::-1], page.top, complete=True)
        recovery = _shown(merge(None, newest, _buffered(channel, subscription)))
        # what came meanwhile makes the oldest ones more than was asked for
        wanted = min(self._fitting(recovery), history) if history > 0 else self._fitting(recovery)
        if len(recovery.publications) > wanted:
            kept = recovery.publications[len(recovery.publications) - wanted :]
            recovery = msgspec.structs.replace(recovery, publications=kept)
        return recovery, None if since is None else False, None

    def _merged(
        self, since: Position, share: Share, buffered: tuple[Publication, ...]
    ) -> tuple[Recovery, int, Forms | None]:
        """Return what is shown of what was missed, how much of it fits a reply, and its forms."""
        if buffered:
            recovery = _shown(merge(since, share.page, buffered))
            return recovery, self._fitting(recovery), None
        if share.recovery is None:
            share.recovery = _shown(merge(since, share.page, ()))
            share.fitting = self._fitting(share.recovery)
        return share.recovery, share.fitting, share.forms

    def forget(self, channel: str) -> None:
        """Give nothing again of a channel: its history was removed."""
        self._reader.forget(channel)

    async def _admitted(self) -> None:
        await Admission.of(asyncio.get_running_loop()).turn(self._limits.arrivals)

    def _fitting(self, recovery: Recovery) -> int:
        """Return how many of the newest publications one reply may hold."""
        size = 0
        for count, publication in enumerate(reversed(recovery.publications)):
            size += len(publication.data)
            if size > self._limits.reply_bytes:
                return count
        return len(recovery.publications)


def _shown(recovery: Recovery) -> Recovery:
    """Leave out what is for who is there alone; the position counts it."""
    shown = tuple(filter(is_history, recovery.publications))
    return msgspec.structs.replace(recovery, publications=shown)


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
