"""Accepts the connections of a listening socket a few at a time; the others wait in the kernel.

An event loop's own server accepts all that wait at once: when a thousand clients come back together, this takes a turn
of 30 ms, in which nobody is served, and then there are a thousand first requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import ssl
from collections.abc import Callable
from socket import socket

from tidewire.limits import Limits
from tidewire.support.admission import Admission
from tidewire.support.counters import LimitCounter, count_limit
from tidewire.support.log_limit import LogLimit
from tidewire.support.siblings import Siblings

__all__ = ("Acceptor",)

logger = logging.getLogger("uvicorn.error")

#: The process or the system has no descriptors or memory for one more (accept(2)).
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds for which no connection is accepted then.
_PAUSE = 0.2
#: The limits that leave no room for newcomers, the seconds for which a worker that has reached one lets the others be
#: first, and the seconds that it waits for them then.
_FULL = ("connections", "memory_bytes")
_FULL_SECONDS, _HEAD_START = 1.0, 0.01
_exhausted = LogLimit()


class Acceptor:
    """Accepts on one listening socket, with the interface of `asyncio.Server`; `close` does not end its connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket,
        factory: Callable[[], asyncio.Protocol],
        limits: Limits,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._factory = factory
        self._limits = limits
        self._context = context
        self._admission = Admission.of(loop)
        self._openings: dict[socket, asyncio.Task[None]] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._is_watched = self._is_closed = False
        #: Whether it has accepted a connection since the socket was last found empty.
        self._has_accepted = False
        self._siblings = Siblings.of(loop)
        self._reached = LimitCounter.of(loop).reached
        #: How often newcomers found no room, and until when others are let first for that.
        self._refused = self._count_refused()
        self._full_until = 0.0
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more connections, and drop those that are about to open.

        Only a TLS handshake is cancelled: uvloop ends a plain connection then without telling its protocol.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._unwatch()
        if self._context is not None:
            for opening in self._openings.values():
                opening.cancel()

    async def wait_closed(self) -> None:
        """Wait until no connection is about to open."""
        if self._openings:
            await asyncio.wait(self._openings.values())

    def _resume(self) -> None:
        self._pause = None
        if not self._is_watched:
            self._is_watched = True
            self._loop.add_reader(self._listener.fileno(), self._readable)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._listener.fileno())

    def _readable(self) -> None:
        """Accept a connection, unless another worker takes it that has more room."""
        if self._siblings.workers > 1 and self._is_full():
            self._unwatch()
            self._pause = self._loop.call_later(_HEAD_START, self._accept_next)
        else:
            self._accept_next()

    def _is_full(self) -> bool:
        refused = self._count_refused()
        if refused != self._refused:
            self._refused, self._full_until = refused, self._loop.time() + _FULL_SECONDS
        return self._loop.time() < self._full_until

    def _count_refused(self) -> int:
        return sum(self._reached[limit] for limit in _FULL)

    def _accept_next(self) -> None:
        """Accept a connection when it is admitted; until then the others are left to the kernel."""
        if not self._admission.start(self._accept, self._limits.arrivals):
            self._unwatch()

    def _accept(self) -> None:
        if self._is_closed:
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            if not self._has_accepted:  # another worker was first
                self._unwatch()  # the system wakes those first that have begun to watch last: next time this one
            self._has_accepted = False
            self._resume()
        except OSError as error:
            self._wait_out(error)
        else:
            self._has_accepted = True
            self._openings[connection] = self._loop.create_task(self._open(connection))
            self._accept_next()

    async def _open(self, connection: socket) -> None:
        seconds = None if self._context is None else self._limits.header_seconds
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._factory, connection, ssl=self._context, ssl_handshake_timeout=seconds
            )
            if self._is_closed:  # after the server has told its connections to end
                transport.close()
        except (OSError, asyncio.CancelledError) as error:  # TLS: the client left, was silent, or does not speak it
            logger.debug("a connection ended before it was open: %r", error)
            with contextlib.suppress(OSError):
                connection.close()
        finally:
            del self._openings[connection]

    def _wait_out(self, error: OSError) -> None:
        """Accept nothing for a moment, until the process or the system has descriptors or memory again."""
        self._unwatch()
        if error.errno in _EXHAUSTED:
            count_limit("descriptors")
        more = _exhausted.due(str(error.errno))
        if more is not None:
            logger.error("no connection can be accepted now (%s); raise `ulimit -n`, or add a worker%s", error, more)
        self._pause = self._loop.call_later(_PAUSE, self._resume)
