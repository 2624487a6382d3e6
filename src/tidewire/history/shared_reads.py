"""Reads of history since a position; one read serves all that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from tidewire.backends.base import Broker
from tidewire.errors import StoreUnavailable
from tidewire.history.read_steps import FIRST_STEP, cost, fitting, step_after
from tidewire.messages import HistoryPage, Position, Publication
from tidewire.retention import Retention

__all__ = ("HistoryReader", "Share", "Spawn", "narrow")

T = TypeVar("T")

#: Runs something in a task that somebody owns; None when that is over.
Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any] | None]
#: Seconds for which one read is given again, and the number of positions for which its parts are remembered.
_AGAIN_SECONDS, _SHARES = 0.1, 64
#: A channel, an epoch, and for how many pages the callers of one read have waited.
_Key = tuple[str, str, int]
#: The largest offset that every store can hold.
_LARGEST = (1 << 63) - 1


class Share(Generic[T]):
    """The part of a page that comes after one position, and the value that the caller made of it for all there."""

    __slots__ = ("_made", "is_cut", "page")

    def __init__(self, page: HistoryPage, *, is_cut: bool = False) -> None:
        self.page = page
        #: More comes after this page than is read at once.
        self.is_cut = is_cut
        self._made: T | None = None

    def once(self, make: Callable[[HistoryPage], T]) -> T:
        """Return the value of `make` for the page; it is called once."""
        if self._made is None:
            self._made = make(self.page)
        return self._made


class _Read(Generic[T]):
    """One read, from the lowest position that it must serve; it begins when the one before has ended."""

    __slots__ = ("_shares", "answer", "end", "lowest", "page")

    def __init__(self, lowest: Position) -> None:
        self.lowest = lowest
        self.answer: asyncio.Task[None] | None = None
        self.page: HistoryPage | None = None
        #: The last offset of a page behind which there is more than is read at once; None: there is no more.
        self.end: int | None = None
        self._shares: dict[int, Share[T]] = {}

    def share(self, since: Position) -> Share[T]:
        """Return the part of the page after a position that is not before the lowest."""
        share = self._shares.get(since.offset)
        if share is None:
            assert self.page is not None
            share = Share[T](narrow(self.page, since), is_cut=self.end is not None)
            if len(self._shares) < _SHARES:
                self._shares[since.offset] = share
        return share

    def reaches(self, since: Position) -> bool:
        """Return whether the page has something after a position, unless there is nothing."""
        return self.end is None or since.offset < self.end

    def serves(self, since: Position, at: Position | None) -> bool:
        """Return whether a read that has ended still holds for a channel that stands at `at`."""
        if self.page is None or self.page.top != at or self.lowest.offset > since.offset:
            return False
        return self.reaches(since)


class HistoryReader(Generic[T]):
    """Reads history since a position, in pages, single-flight per channel: callers during a read share the next one.

    When many return at once, the store sees two reads for each channel, however many they are. A caller that comes a
    moment later is given the same read, unless the channel has gone on. A caller that the page of the others does not
    reach waits for the next one with those that it did not reach either: `level` is how often that was so.
    """

    def __init__(self, broker: Broker, spawn: Spawn, most: int) -> None:
        self._broker = broker
        self._most = most
        self._spawn = spawn
        self._next: dict[_Key, _Read[T]] = {}
        self._current: dict[_Key, asyncio.Task[None]] = {}
        self._ended: dict[_Key, _Read[T]] = {}
        self.reads = 0
        self.shared = 0

    async def since(self, channel: str, since: Position, retention: Retention, at: Position | None = None) -> Share[T]:
        """Return the first page of the answer of `Broker.history`; raises StoreUnavailable.

        `at` is the channel's position for its live subscribers: a read that ended there a moment ago is given again.
        """
        if not 0 <= since.offset <= _LARGEST:  # no store has given this offset, and some could not even look for it
            page = await self._broker.history(channel, limit=0, retention=retention)
            return Share[T](HistoryPage((), page.top, complete=False))
        level = 0
        while True:
            found = await self._read_for((channel, since.epoch, level), since, retention, at)
            if found.reaches(since):
                return found.share(since)
            level += 1

    async def _read_for(self, key: _Key, since: Position, retention: Retention, at: Position | None) -> _Read[T]:
        ended = self._ended.get(key)
        if ended is not None and ended.serves(since, at):
            self.shared += 1
            return ended
        joined = self._next.get(key)
        if joined is None:
            joined = _Read[T](since)
            joined.answer = self._spawn(self._read(key, joined, retention))
            if joined.answer is None:
                raise StoreUnavailable(f"the history of {key[0]!r} cannot be read: this node is closed")
            self._next[key] = joined
            self.reads += 1
        else:
            self.shared += 1
            if since.offset < joined.lowest.offset:
                joined.lowest = since
        assert joined.answer is not None
        await asyncio.shield(joined.answer)
        return joined

    def forget(self, channel: str) -> None:
        """Forget the pages of a channel: its history was removed."""
        for key in [key for key in self._ended if key[0] == channel]:
            del self._ended[key]

    async def _read(self, key: _Key, joined: _Read[T], retention: Retention) -> None:
        current = self._current.get(key)
        if current is not None:
            await asyncio.wait([current])
        del self._next[key]
        assert joined.answer is not None
        self._current[key] = joined.answer
        try:
            joined.page, joined.end = await self._read_page(key[0], joined.lowest, retention)
        finally:
            if self._current.get(key) is joined.answer:
                del self._current[key]
        self._ended[key] = joined
        asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._expire, key, joined)

    async def _read_page(self, channel: str, since: Position, retention: Retention) -> tuple[HistoryPage, int | None]:
        """Return the oldest publications after a position, and the offset of the last one if there are more.

        They are read in steps, so that a page is about all that is ever in memory.
        """
        kept: list[Publication] = []
        size, asked, at, complete, is_all = 0, FIRST_STEP, since, True, False
        while not is_all and size < self._most:
            page = await self._broker.history(channel, since=at, limit=asked, retention=retention)
            if not kept:
                complete = page.complete
            elif not page.complete:  # lost or trimmed meanwhile: the next page says so
                break
            kept += page.publications
            size += sum(map(cost, page.publications))
            is_all = len(page.publications) < asked or page.top.epoch != since.epoch
            asked = step_after(page.publications, self._most - size)
            at = Position(kept[-1].offset, page.top.epoch) if kept else since
        fits = fitting(kept, self._most)
        end = None if is_all and fits == len(kept) else kept[fits - 1].offset
        return HistoryPage(tuple(kept[:fits]), page.top, complete), end

    def _expire(self, key: _Key, read: _Read[T]) -> None:
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
