"""Knows how many messages tidewire itself has removed from the stream: where more are gone, somebody else removed some.

A stored message does not name the one before it, so a missing one in the middle of a channel shows nowhere else. The
stream's newest sequence less the number of messages in it is all that was ever removed; a note, itself a message of the
stream, says how much of that was tidewire's own. A node may die, or lose the answer, while it removes. So the note says
before how much it may be, and afterwards how much it was: no node's end is taken for a removal by somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from tidewire.backends.nats.address import NatsAddress
from tidewire.backends.nats.jetstream import EXPECTED, Ack
from tidewire.backends.nats.publication_stream import Stream, is_limited, start_epoch
from tidewire.backends.nats.session import Refused, Session
from tidewire.errors import StoreUnavailable

__all__ = ("SETTLE_SECONDS", "RemovalWatch", "begin_epoch", "begin_notes", "purge")

#: Seconds after which a removal that was begun is over, though its node has not said so.
SETTLE_SECONDS = 60.0
#: The server's error code where another node was faster, and tries.
_WRONG_LAST, _TRIES = 10071, 100
#: Notes after which the older ones are removed.
_NOTES = 16


class _Note(msgspec.Struct, frozen=True, array_like=True):
    """How many messages tidewire has removed, how many more it may have, and how often the latter was settled."""

    known: int = 0
    pending: int = 0
    settled: int = 0

    def begun(self, most: int) -> _Note:
        return _Note(self.known, self.pending + most, self.settled)

    def ended(self, removed: int, most: int, settled: int) -> _Note:
        if settled != self.settled:  # somebody has counted it already, or will
            return self.begun(removed)
        return _Note(self.known + removed, self.pending - most, self.settled)


async def begin_epoch(session: Session, address: NatsAddress, old: str) -> None:
    """Give the stream a new epoch, because messages are gone that nobody of tidewire has removed.

    All nodes that notice it name the same epoch, so it does not matter how many do.
    """
    stream = await start_epoch(session, address, old)
    await begin_notes(stream)
    for subject in (f"{address.stream}.s.{old}.*", f"{address.stream}.f.{old}.*", f"{address.stream}.t.{old}"):
        await purge(stream, subject)


async def begin_notes(stream: Stream) -> None:
    """Take missing messages as removed by tidewire, unless a note says how much; raises StoreUnavailable."""
    (_, place), state = await _read(stream), await stream.state()
    if not place and state.missing:
        await _write(stream, _Note(state.missing), 0)


async def purge(stream: Stream, subject: str, **asked: int) -> None:
    """Remove messages of a subject (publication_stream.Stream.purge), and note how many; raises StoreUnavailable."""
    if await _purge(stream, subject, **asked) % _NOTES < 2:  # two notes for each removal
        await _purge(stream, stream.removals, keep=1)


async def _purge(stream: Stream, subject: str, **asked: int) -> int:
    """Return the sequence of the note that says how much was removed."""
    most = (await stream.state()).messages
    begun, _ = await _change(stream, lambda note: note.begun(most))
    removed = await stream.purge(subject, **asked)
    _, place = await _change(stream, partial(_Note.ended, removed=removed, most=most, settled=begun.settled))
    return place


async def _change(stream: Stream, change: Callable[[_Note], _Note]) -> tuple[_Note, int]:
    """Change the note; return the new one and its sequence. Raises StoreUnavailable."""
    for _ in range(_TRIES):
        note, place = await _read(stream)
        new = change(note)
        seq = await _write(stream, new, place)
        if seq is not None:
            return new, seq
    raise StoreUnavailable("NATS: too many nodes remove messages at once; try again")


async def _read(stream: Stream) -> tuple[_Note, int]:
    """Return the newest note, and its sequence: 0 where none was written yet, or somebody has removed it."""
    last = await stream.last(stream.removals)
    return (_Note(), 0) if last is None else (msgspec.json.decode(last.data, type=_Note), last.seq)


async def _write(stream: Stream, note: _Note, expected: int) -> int | None:
    """Write a note behind another one; return its sequence, or None: that one is no longer the newest."""
    msg = await stream.session.request(stream.removals, msgspec.json.encode(note), {EXPECTED: str(expected)})
    ack = msgspec.json.decode(msg.data, type=Ack)
    if ack.error is None:
        return ack.seq
    if ack.error.err_code == _WRONG_LAST:
        return None
    raise Refused("note the removal", ack.error)


class RemovalWatch:
    """Looks, round after round, whether something was removed that no node has removed; one for each epoch."""

    def __init__(self) -> None:
        #: The missing messages that did not fit the note at the last look, and that note's sequence.
        self._unfit: tuple[int, int] | None = None
        #: The newest note that was seen, and when it was seen first.
        self._place = 0
        self._since = 0.0

    async def is_foreign(self, stream: Stream) -> bool:
        """Return whether the same is missing as in the look before, and no note has come; raises StoreUnavailable."""
        note, place = await _read(stream)
        answer = await stream.info()
        if is_limited(answer.config):  # the server removes messages by itself, as an operator wants it to
            return False
        missing = answer.state.missing
        if 0 <= missing - note.known <= note.pending:
            self._unfit = None
            await self._settle(stream, note, place, missing)
            return False
        unfit, self._unfit = self._unfit, (missing, place)
        return unfit == self._unfit

    async def _settle(self, stream: Stream, note: _Note, place: int, missing: int) -> None:
        """Count missing messages as removed by tidewire, once a removal must be over of which no node tells."""
        now = asyncio.get_running_loop().time()
        if place != self._place:
            self._place, self._since = place, now
        elif note.pending and now - self._since >= SETTLE_SECONDS:
            await _write(stream, _Note(missing, 0, note.settled + 1), place)
