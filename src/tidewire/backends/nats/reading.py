"""Reads a channel's history out of the stream, as of one position.

A stored message does not name the one before it. A read begins one message before the first one that is shown, so that
this has its `previous`; where nothing earlier is stored, a mark says whether something ever was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from tidewire.backends.nats.jetstream import REMOVED, STATUS, ConsumerInfo, Stamp, StoredMessage, parse_time
from tidewire.backends.nats.publication_stream import Stream
from tidewire.backends.nats.server_clock import StoreClock
from tidewire.backends.nats.session import Unsendable
from tidewire.errors import StoreUnavailable
from tidewire.messages import HistoryPage, HistoryRequest, Position, Publication
from tidewire.retention import Retention

__all__ = ("oldest_of_newest", "read_history", "top_of")

#: Messages that are asked for at once: a server may take a millisecond for each old one of a busy stream.
_BATCH = 100
#: Bytes that are asked for at once: the server cuts off a client for which too much waits; and for one large message.
_BATCH_BYTES, _LARGEST = 512 * 1024, 64 * 1_048_576
#: How much further back is looked when too few messages were found.
_FURTHER = 8
#: Marks of a removed history that may stand among the messages.
_MARKERS = 2
#: How often a history is read again of which something was removed meanwhile.
_READS = 5


class _Removed(Exception):
    """Messages that the server had when a read began are gone."""


class _Read(msgspec.Struct, frozen=True):
    """One message as it was read: `top` is the channel's position after it."""

    seq: int
    top: int
    stored: float
    stamp: Stamp | None
    data: bytes


def top_of(message: StoredMessage | None) -> int:
    """Return the offset that a channel has when this is its newest message."""
    if message is None:
        return 0
    return int(message.headers.get(REMOVED, message.seq))


class _Reader:
    """Reads one subject; each read is one consumer that lives as long as the read."""

    def __init__(self, stream: Stream, subject: str, seconds: float, tell_time: Callable[[float], None]) -> None:
        self._stream = stream
        self._subject = subject
        self._seconds = seconds
        self._tell_time = tell_time

    async def begin(self, seq: int) -> ConsumerInfo:
        """Begin to read at a sequence."""
        consumer = await self._stream.read_from(self._subject, seq)
        self._tell_time(parse_time(consumer.created))
        return consumer

    async def count(self, seq: int) -> int:
        """Return how many messages there are from a sequence on."""
        consumer = await self.begin(seq)
        await self._stream.forget(consumer)
        return consumer.num_pending

    async def take(self, consumer: ConsumerInfo, last: int, keep: deque[_Read], most: int | None = None) -> None:
        """Read up to the sequence `last`, or at most so many."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        session, inbox = self._stream.session, self._stream.session.new_inbox()

        async def arrive(msg: Msg) -> None:
            arrived.put_nowait(msg)

        left = consumer.num_pending if most is None else min(most, consumer.num_pending)
        subscription = await session.subscribe(inbox, arrive)
        try:
            # sooner than we give up: where messages were removed meanwhile, the server says that there are no more
            size, expires = _BATCH_BYTES, int(self._seconds / 4 * 1e9)
            while left > 0:
                asked = {"batch": min(left, _BATCH), "max_bytes": size, "expires": expires}
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream.name}.{consumer.name}"
                await session.publish(subject, msgspec.json.encode(asked), reply=inbox)
                found = await self._take_batch(arrived, min(left, _BATCH))
                keep.extend(read for read in found if read.seq <= last)
                if found and found[-1].seq > last:
                    return
                if not found and size > _BATCH_BYTES:
                    raise _Removed
                size = _BATCH_BYTES if found else _LARGEST  # one message may be larger than a batch
                left -= len(found)
        finally:
            await session.unsubscribe(subscription)
            await self._stream.forget(consumer)

    async def _take_batch(self, arrived: asyncio.Queue[Msg], count: int) -> list[_Read]:
        """Take the answer to one request: so many messages, or fewer and a status that there are no more."""
        found: list[_Read] = []
        async with asyncio.timeout(None) as limit:
            loop = asyncio.get_running_loop()
            while len(found) < count:
                limit.reschedule(loop.time() + self._seconds)
                read = _read(await arrived.get())
                if read is None:
                    break
                found.append(read)
        return found

    async def forward(self, first: int, last: int, most: int | None) -> list[_Read]:
        """Return the messages from one sequence to another, or the oldest of them."""
        found: deque[_Read] = deque()
        await self.take(await self.begin(first), last, found, most)
        return list(found)

    async def oldest(self, first: int, last: int, most: int | None, size: int) -> list[_Read]:
        """Return the messages from one sequence to another, or the oldest of them, where `size` leaves none out.

        Else the newest: which of them are the newest `size` is known when all were read.
        """
        consumer = await self.begin(first)
        if consumer.num_pending > size:
            await self._stream.forget(consumer)
            return await self.newest(first, last, size)
        found: deque[_Read] = deque()
        await self.take(consumer, last, found, most)
        return list(found)

    async def newest(self, first: int, last: int, count: int, newer: int = 0) -> list[_Read]:
        """Return the newest messages from one sequence to another, at least `count` and one if there are so many.

        So many `newer` messages come after the last one.
        """
        wanted = count + 1 + _MARKERS
        consumer, back = await self.begin(first), 2 * wanted
        begins = first
        if consumer.num_pending > 2 * wanted + newer:  # more than is wanted: look from the end
            while True:
                await self._stream.forget(consumer)
                begins = max(first, last - back)
                consumer = await self.begin(begins)
                if begins == first or consumer.num_pending - newer >= wanted:
                    break
                back *= _FURTHER
        found: deque[_Read] = deque(maxlen=wanted)
        await self.take(consumer, last, found)
        return list(found)

    async def linked(self, found: Sequence[_Read], after: int) -> list[tuple[_Read, int]]:
        """Return the publications among messages from `after` on, each with the offset before it."""
        publications: list[tuple[_Read, int]] = []
        previous: int | None = None
        for read in found:
            if read.stamp is not None:
                if previous is None:
                    previous = await self._before(read, after)
                publications.append((read, previous))
            previous = read.top
        return publications

    async def _before(self, first: _Read, after: int) -> int:
        """Return the offset before the first message that was read, or the largest that it can be.

        A position is that of a message, which is read too where it is still stored; the beginning is nobody's.
        """
        if not after and await self._stream.last(self._stream.mark(self._subject)) is None:
            return after
        return first.seq - 1


def _read(msg: Msg) -> _Read | None:
    headers = msg.headers or {}
    words = msg.reply.split(".")
    if STATUS in headers or len(words) < 9:
        return None
    skipped = 2 if len(words) > 9 else 0  # a newer form names a domain and an account too
    seq, stored = int(words[5 + skipped]), int(words[7 + skipped]) / 1e9
    if REMOVED in headers:
        return _Read(seq, int(headers[REMOVED]), stored, None, b"")
    return _Read(seq, seq, stored, Stamp.read(headers, stored), msg.data)


async def read_history(stream: Stream, request: HistoryRequest, seconds: float, clock: StoreClock) -> HistoryPage:
    """Answer a history request (base.Broker.read); raises StoreUnavailable."""
    for _ in range(_READS):
        try:
            return await _read_once(stream, request, seconds, clock)
        except _Removed:  # by a trimmer, or for want of room
            continue
    raise StoreUnavailable(f"the history of {request.channel!r} cannot be read: it is removed meanwhile; try again")


async def _read_once(stream: Stream, request: HistoryRequest, seconds: float, clock: StoreClock) -> HistoryPage:
    if request.limit is not None:
        request = msgspec.structs.replace(request, limit=max(0, request.limit))
    subject = stream.stored(request.channel)
    last = await stream.last(subject)
    position = Position(top_of(last), stream.epoch)
    since = request.since
    if since is not None and since.epoch != stream.epoch:
        return HistoryPage((), position, complete=False)
    if last is None or (request.limit == 0 and since is None):
        return HistoryPage((), position, complete=since is None or since.offset == position.offset)
    if since is not None and since.offset >= position.offset and not request.reverse:
        return HistoryPage((), position, complete=since.offset == position.offset)
    reader = _Reader(stream, subject, seconds, clock.set)
    try:
        if request.reverse:
            return await _read_backward(reader, request, last.seq, position, clock)
        return await _read_forward(reader, request, last.seq, position, clock)
    except (TimeoutError, Unsendable) as error:
        reason = str(error) or f"no answer within {seconds:g} s"
        raise StoreUnavailable(f"the history of {request.channel!r} cannot be read from NATS: {reason}") from error


async def _read_forward(
    reader: _Reader, request: HistoryRequest, last: int, position: Position, clock: StoreClock
) -> HistoryPage:
    after, retention = 0 if request.since is None else request.since.offset, request.retention
    most = None if request.limit is None else request.limit + 1 + _MARKERS
    if retention is None:
        publications = await reader.linked(await reader.forward(after, last, most), after)
    else:
        publications = await reader.linked(await reader.oldest(after, last, most, retention.size), after)
        found = _shown(publications, retention, clock)
        if len(found) < len(publications) <= retention.size:  # the oldest are too old, and others come after them
            publications = await reader.linked(await reader.newest(after, last, retention.size), after)
            found = _shown(publications, retention, clock)
        publications = found
    shown = [_publication(request, position, *read) for read in publications if read[0].seq > after]
    complete = request.since is None or (bool(shown) and shown[0].previous <= after)
    return HistoryPage(tuple(shown if request.limit is None else shown[: request.limit]), position, complete)


async def _read_backward(
    reader: _Reader, request: HistoryRequest, last: int, position: Position, clock: StoreClock
) -> HistoryPage:
    since, retention, newer = request.since, request.retention, 0
    if since is not None and since.offset <= last:
        newer, last = await reader.count(since.offset), since.offset - 1
    rooms = [request.limit, None if retention is None else max(0, retention.size - newer)]
    count = min((room for room in rooms if room is not None), default=None)
    found = await (reader.forward(1, last, None) if count is None else reader.newest(1, last, count, newer))
    publications = await reader.linked(found, 0)
    if retention is not None:
        publications = _shown(publications, Retention(retention.size, retention.age), clock)
    shown = [_publication(request, position, *read) for read in reversed(publications)][:count]
    complete = since is None or (since.offset <= position.offset + 1 and (bool(shown) or not found))
    return HistoryPage(tuple(shown), position, complete)


def _shown(
    publications: Sequence[tuple[_Read, int]], retention: Retention, clock: StoreClock
) -> list[tuple[_Read, int]]:
    """Return those of the newest publications that retention shows."""
    oldest = clock.now() - retention.age
    newest = publications[max(0, len(publications) - retention.size) :]
    return [read for read in newest if read[0].stored >= oldest]


def _publication(request: HistoryRequest, position: Position, read: _Read, previous: int) -> Publication:
    assert read.stamp is not None
    return read.stamp.publication(request.channel, read.seq, previous, position.epoch, read.data)


async def oldest_of_newest(stream: Stream, subject: str, last: int, count: int, seconds: float) -> int:
    """Return the sequence of the oldest of the newest `count` messages of a subject, up to the sequence `last`."""
    reader = _Reader(stream, subject, seconds, lambda _: None)
    found = [read.seq for read in await reader.newest(1, last, count) if read.stamp is not None]
    newest = found[len(found) - count :] if count else []
    return newest[0] if newest else last + 1
