"""The bytes that stand before a ping: while a slow client takes them, its pong cannot come."""

from __future__ import annotations

import asyncio

from tidewire.links.tcp_socket import acknowledged_by, unsent_by

__all__ = ("BytesAhead", "bytes_ahead")

#: Bytes in the kernel up to which nothing waits between TLS and the socket: the kernel would have taken it.
_UNFILLED = 16_384


class BytesAhead:
    """The account that one judge of pongs keeps of the bytes that were unsent when its ping was written.

    It ends where the ping stands: what comes behind it is acknowledged by the kernel of a frozen process, too, until
    the buffers there are full.
    """

    __slots__ = ("_acknowledged", "_mark", "_transport", "are_taken")

    def __init__(self, transport: asyncio.Transport, acknowledged: int, mark: int) -> None:
        self._transport = transport
        self._acknowledged = acknowledged
        self._mark = mark
        #: Whether all have been taken at the last look.
        self.are_taken = False

    def have_moved(self) -> bool:
        """Return whether the client has taken some of them since the last look."""
        before, found = self._acknowledged, acknowledged_by(self._transport)
        if self.are_taken or found is None or found == before:
            return False
        self._acknowledged = found
        if found >= self._mark:
            unsent = unsent_by(self._transport)
            self.are_taken = unsent <= _UNFILLED or self._transport.get_extra_info("sslcontext") is None
            self._mark = found + unsent  # below TLS others were before the ping, which no transport counted
        return True


def bytes_ahead(transport: asyncio.Transport, waiting: int) -> BytesAhead | None:
    """Return the bytes before a ping that is written now; None where there are none, or no kernel tells.

    `waiting` are those that have not been given to the transport.
    """
    acknowledged, unsent = acknowledged_by(transport), unsent_by(transport) + waiting
    return None if acknowledged is None or not unsent else BytesAhead(transport, acknowledged, acknowledged + unsent)
