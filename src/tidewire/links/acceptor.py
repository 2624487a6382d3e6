"""Takes connections from a listening socket, each when it is its turn; the others wait in the kernel.

An event loop's own server takes all that wait at once: a thousand who come back together are a turn of 30 ms, in which
nobody is served, and then a thousand first requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import ssl
from collections.abc import Callable
from socket import socket

from tidewire.options import Limits
from tidewire.support.admission import Admission
from tidewire.support.counters import count_limit
from tidewire.support.log_limit import Seldom

__all__ = ("Acceptor",)

logger = logging.getLogger("uvicorn.error")

#: The process or the system has no descriptors or memory for one more (accept(2)).
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds for which nobody is taken then: they wait in the kernel's queue.
_PAUSE = 0.2
_exhausted = Seldom()


class Acceptor:
    """Serves one listening socket, as an `asyncio.Server` does; it is closed by `close`, its connections are not."""

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
        self._openings: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._is_closed = False
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Take nobody more; who is amid its TLS handshake is let go."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        for opening in self._openings:
            opening.cancel()

    async def wait_closed(self) -> None:
        """Wait until nobody is amid its TLS handshake."""
        if self._openings:
            await asyncio.wait(self._openings)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._readable)

    def _readable(self) -> None:
        """Take who is there, one in each turn that may begin something for a newcomer."""
        self._loop.remove_reader(self._listener.fileno())
        self._begin()

    def _begin(self) -> None:
        self._admission.begin(self._take, self._limits.arrivals)

    def _take(self) -> None:
        if self._is_closed:
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._resume()
        except OSError as error:
            self._rest(error)
        else:
            connection.setblocking(False)
            opening = self._loop.create_task(self._open(connection))
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)
            self._begin()

    async def _open(self, connection: socket) -> None:
        seconds = None if self._context is None else self._limits.header_seconds
        try:
            await self._loop.connect_accepted_socket(
                self._factory, connection, ssl=self._context, ssl_handshake_timeout=seconds
            )
        except (OSError, asyncio.CancelledError) as error:  # TLS: the peer went, was silent, or speaks something else
            logger.debug("a connection ended before it was open: %r", error)
            with contextlib.suppress(OSError):
                connection.close()

    def _rest(self, error: OSError) -> None:
        """Take nobody for a moment: what there is too little of may come back."""
        if error.errno in _EXHAUSTED:
            count_limit("descriptors")
        more = _exhausted.due(str(error.errno))
        if more is not None:
            logger.error("no connection can be taken now (%s); raise `ulimit -n`, or add a worker%s", error, more)
        self._pause = self._loop.call_later(_PAUSE, self._resume)
