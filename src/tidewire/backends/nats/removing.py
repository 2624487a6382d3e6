"""Removes what is stored of a channel, without losing its position.

In the place of what was removed stands a marker, itself a message of the channel: it says which position the channel
had. The server stores it only where nothing was published meanwhile.
"""

from __future__ import annotations

import msgspec

from tidewire.backends.nats.jetstream import EXPECTED, REMOVED, Ack
from tidewire.backends.nats.publication_stream import Stream
from tidewire.backends.nats.reading import top_of
from tidewire.backends.nats.session import Refused
from tidewire.errors import StoreUnavailable

__all__ = ("mark_removal", "remove_all")

_WRONG_LAST = 10071
_TRIES = 100


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
        await stream.purge(subject, seq=marker)
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
