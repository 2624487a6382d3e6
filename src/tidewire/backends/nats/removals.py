"""Knows how many messages tidewire itself has removed from the stream: where more are gone, somebody else removed some.

A stored message does not name the one before it, so what is missing in the middle of a channel shows nowhere else. The
stream's newest sequence less the number of messages in it is all that was ever removed; a note, itself a message of the
stream, says how much of that was tidewire's own.
"""

from __future__ import annotations

import msgspec

from tidewire.backends.nats.jetstream import EXPECTED, Ack
from tidewire.backends.nats.publication_stream import Stream, is_limited
from tidewire.backends.nats.session import Refused
from tidewire.errors import StoreUnavailable

__all__ = ("RemovalWatch", "purge")

#: The server's error code where another node was faster, and tries.
_WRONG_LAST, _TRIES = 10071, 100
#: Notes after which the older ones are removed.
_NOTES = 16


async def purge(stream: Stream, subject: str, **asked: int) -> None:
    """Remove messages of a subject (publication_stream.Stream.purge), and note how many; raises StoreUnavailable."""
    removed = await stream.purge(subject, **asked)
    if removed and await _note(stream, removed) % _NOTES == 0:
        await _note(stream, await stream.purge(stream.removals, keep=1))


async def _note(stream: Stream, removed: int) -> int:
    """Add to what tidewire has removed; return the sequence of the note. Raises StoreUnavailable."""
    for _ in range(_TRIES):
        known, place = await _read(stream)
        seq = await _write(stream, known + removed, place)
        if seq is not None:
            return seq
    raise StoreUnavailable("NATS: too many nodes remove messages at once; try again")


async def _read(stream: Stream) -> tuple[int, int]:
    """Return how many messages tidewire has removed, and the sequence of the note that says so."""
    last = await stream.last(stream.removals)
    return (0, 0) if last is None else (int(last.data), last.seq)


async def _write(stream: Stream, count: int, expected: int) -> int | None:
    """Write a note behind another one; None: it is no longer the newest."""
    msg = await stream.session.request(stream.removals, b"%d" % count, {EXPECTED: str(expected)})
    ack = msgspec.json.decode(msg.data, type=Ack)
    if ack.error is None:
        return ack.seq
    if ack.error.err_code == _WRONG_LAST:
        return None
    raise Refused("note what was removed", ack.error)


class RemovalWatch:
    """Looks, round after round, whether something was removed that no node has removed."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None

    async def is_foreign(self, stream: Stream) -> bool:
        """Return whether the same is missing as in the look before, and no note has come; raises StoreUnavailable."""
        known, place = await _read(stream)
        answer = await stream.info()
        if is_limited(answer.config):  # the server removes messages by itself, as an operator wants it to
            return False
        missing = answer.state.last_seq - answer.state.messages - known
        seen, self._seen = self._seen, (missing, place) if missing else None
        return missing != 0 and seen == self._seen
