"""Removes, in the background, publications that no reader is shown any more and no node needs for delivery.

The server could do it by itself, but it would forget the position of a channel with its last message. So a marker takes
the place of a removed history, itself a message of the channel, with the position that the channel had. The server
stores it only where nothing was published meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

import msgspec

from tidewire.backends.nats.jetstream import EXPECTED, REMOVED, Ack, Stamp, StoredMessage, parse_time
from tidewire.backends.nats.publication_stream import Stream
from tidewire.backends.nats.reading import oldest_of_newest, top_of
from tidewire.backends.nats.removals import purge
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.nats.session import Refused
from tidewire.errors import StoreUnavailable
from tidewire.retention import Retention

__all__ = ("DELIVERY_SECONDS", "GrowthMarks", "Trimmer", "remove_all")

logger = logging.getLogger("tidewire")

#: Seconds for which every message stays, so that each node can fill a gap.
DELIVERY_SECONDS = 75.0
#: Seconds between two rounds, of all nodes together.
ROUND_SECONDS = 30.0
#: The part of a store's limit that is free after it was reached, and seconds between two removals of all nodes.
_SPARE, _BOUND_SECONDS = 1 / 8, 0.25
#: Messages that a channel may have beyond its size, and beyond a quarter more of it, before it is trimmed.
_SLACK = 64
#: The largest size for which the oldest message to keep is looked up; for others, so many more are kept.
_LARGE, _MARGIN = 1_000, 1_000
#: The server's error code where something was published meanwhile, and tries to remove a history.
_WRONG_LAST, _TRIES = 10071, 100
#: Channels whose growth is remembered.
_CHANNELS = 10_000


class Trimmer:
    """Trims all channels, round after round; the nodes of a store take turns."""

    def __init__(self, clock: StoreClock, *, seconds: float = 2.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        #: Channels of which only a marker is left.
        self._empty: set[str] = set()
        self._retentions: dict[str, Retention] = {}

    def start(self, find_stream: Callable[[], Stream | None]) -> None:
        """Begin the rounds."""
        self._task = asyncio.get_running_loop().create_task(self._run(find_stream), name="tidewire-nats-trim")

    async def aclose(self) -> None:
        """End the rounds."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, find_stream: Callable[[], Stream | None]) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * ROUND_SECONDS)
            stream = find_stream()
            if stream is None:
                continue
            try:
                if await self._is_mine(stream):
                    await self.trim(stream)
            except StoreUnavailable as error:
                logger.info("old messages are not removed from NATS for now: %s", error)
            except Exception:
                logger.exception("old messages were not removed from NATS")

    async def _is_mine(self, stream: Stream, seconds: float = ROUND_SECONDS) -> bool:
        """Take the turn, unless another node had it within so many seconds."""
        last = await stream.last(stream.turn)
        if last is not None and self._clock.now() - parse_time(last.time) < seconds:
            return False
        headers = {EXPECTED: str(last.seq if last is not None else 0)}
        msg = await stream.session.request(stream.turn, b"", headers)
        if msgspec.json.decode(msg.data, type=Ack).error is not None:
            return False
        await purge(stream, stream.turn, keep=1)
        return True

    async def bound(self, stream: Stream, limit: int) -> bool:
        """Trim, and remove some of the oldest messages of all channels where the stream has more than so many bytes.

        Returns whether it had. Raises StoreUnavailable.
        """
        state = await stream.state()
        excess = 1 - (1 - _SPARE) * limit / max(1, state.bytes)
        if state.bytes <= limit or not await self._is_mine(stream, _BOUND_SECONDS):
            return False
        span = state.last_seq + 1 - state.first_seq
        await self.trim(stream, state.first_seq + max(1, int(span * min(excess, 2 * _SPARE))))
        return True

    async def trim(self, stream: Stream, least: int = 0) -> None:
        """Trim every channel once, and remove messages older than a sequence; raises StoreUnavailable."""
        bounds = _Bounds(stream, self._clock)
        offset = 0
        while True:
            answer = await stream.info(stream.all_stored, offset)
            for subject, count in answer.state.subjects.items():
                if count > 1 or subject not in self._empty:
                    await self._trim_one(stream, subject, count, bounds, least)
            offset += len(answer.state.subjects)
            if not answer.state.subjects or offset >= answer.total:
                return

    async def _trim_one(self, stream: Stream, subject: str, count: int, bounds: _Bounds, least: int) -> None:
        first, last = await stream.get(seq=1, next_by_subj=subject), await stream.last(subject)
        if first is None or last is None:
            return
        if REMOVED in last.headers and first.seq == last.seq:
            self._empty.add(subject)
            return
        self._empty.discard(subject)
        retention = self._retention(subject, first, last)
        young = await bounds.at(DELIVERY_SECONDS)
        bound = min(young, await bounds.at(retention.age))
        if count > retention.size + retention.size // 4 + _SLACK or (not retention.size and first.seq < young):
            if retention.size > _LARGE:
                await self._trim_large(stream, subject, count, retention, young)
            else:
                oldest = await oldest_of_newest(stream, subject, last.seq, retention.size, self._seconds)
                bound = max(bound, min(young, oldest))
        bound = max(bound, least)
        if bound > last.seq:
            await remove_all(stream, subject)
        elif bound > first.seq:
            await mark_removal(stream, subject)
            await purge(stream, subject, seq=bound)

    async def _trim_large(self, stream: Stream, subject: str, count: int, retention: Retention, young: int) -> None:
        consumer = await stream.read_from(subject, young)
        await stream.forget(consumer)
        keep = max(retention.size, consumer.num_pending) + _MARGIN
        if count > keep:
            await mark_removal(stream, subject)
            await purge(stream, subject, keep=keep)

    def _retention(self, subject: str, first: StoredMessage, last: StoredMessage) -> Retention:
        """Return the channel's retention, which a publisher outside of the application does not state."""
        for message in (last, first):
            said = Stamp.read(message.headers, 0.0).retention
            if said is not None:
                if len(self._retentions) >= 100_000:
                    self._retentions.clear()
                self._retentions[subject] = said
                return said
        return self._retentions.get(subject) or Retention()


class GrowthMarks:
    """Bounds the bytes of channels by those that this node has published: the server does not tell a subject's size."""

    def __init__(self) -> None:
        #: The bytes of each channel, and the newest sequences at earlier moments with the bytes of that moment.
        self._bytes: dict[str, int] = {}
        self._marks: dict[str, deque[tuple[int, int]]] = {}

    def add(self, channel: str, size: int) -> None:
        """Count a publication."""
        if len(self._bytes) >= _CHANNELS:
            self._bytes.clear()
            self._marks.clear()
        self._bytes[channel] = self._bytes.get(channel, 0) + size

    async def bound(self, stream: Stream, channel: str, limit: int) -> bool:
        """Remove publications beyond so many bytes; return whether there were any. Raises StoreUnavailable."""
        subject, size = stream.stored(channel), self._bytes.get(channel, 0)
        last = await stream.last(subject)
        if last is None:
            return False
        marks, oldest = self._marks.setdefault(channel, deque()), 0
        marks.append((last.seq, size))
        while size - marks[0][1] >= limit:
            oldest = marks.popleft()[0]
        if oldest:
            await mark_removal(stream, subject)
            await purge(stream, subject, seq=oldest)
        return bool(oldest)


class _Bounds:
    """Finds the first sequence of the stream that is younger than so many seconds."""

    def __init__(self, stream: Stream, clock: StoreClock) -> None:
        self._stream = stream
        self._clock = clock
        self._known: dict[float, int] = {}

    async def at(self, age: float) -> int:
        """Return the sequence; that of the next message when all are older."""
        known = self._known.get(age)
        if known is None:
            known = self._known[age] = await self._find(self._clock.now() - age)
        return known

    async def _find(self, time: float) -> int:
        state = await self._stream.state()
        low, high = state.first_seq, state.last_seq + 1
        while low < high:
            middle = (low + high) // 2
            message = await self._stream.get(seq=middle, next_by_subj=">")
            if message is None or parse_time(message.time) >= time:
                high = middle
            else:
                low = message.seq + 1
        return low


async def remove_all(stream: Stream, subject: str) -> None:
    """Remove everything that is stored at a subject; raises StoreUnavailable."""
    for _ in range(_TRIES):
        last = await stream.last(subject)
        if last is None:
            return
        marker = last.seq
        if REMOVED not in last.headers:
            headers = {EXPECTED: str(last.seq), REMOVED: str(top_of(last))}
            msg = await stream.session.request(subject, b"", headers)
            ack = msgspec.json.decode(msg.data, type=Ack)
            if ack.error is not None:
                if ack.error.err_code == _WRONG_LAST:  # something was published meanwhile
                    continue
                raise Refused("remove a history", ack.error)
            marker = ack.seq
        await mark_removal(stream, subject)
        await purge(stream, subject, seq=marker)
        return
    raise StoreUnavailable("the history was not removed: too much is published there; try again")


async def mark_removal(stream: Stream, subject: str) -> None:
    """Note that something is removed at a subject, before it is; raises StoreUnavailable."""
    mark = stream.mark(subject)
    if await stream.last(mark) is None:
        msg = await stream.session.request(mark, b"1")
        ack = msgspec.json.decode(msg.data, type=Ack)
        if ack.error is not None:
            raise Refused("remove messages", ack.error)
