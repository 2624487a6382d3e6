"""Pings under ASGI servers that send none, or wait for no pong: hypercorn and granian.

ASGI has no event for a ping. uvicorn, gunicorn with uvicorn's worker and daphne ping by themselves; under these two,
nothing would tell a client that is frozen from one that is quiet. So a ping frame goes straight into the TCP socket,
at a moment when the server has nothing to write, and any bytes that the kernel receives afterwards are the answer.
Under TLS or HTTP/2 of the server nothing can be written: there the kernel itself asks whether the client's machine is
still there, and a program that is frozen goes unnoticed, which is said when the first such client comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import sys
from collections.abc import MutableMapping
from typing import Any, Protocol

from tidewire.limits import Limits
from tidewire.links.tcp_socket import Peer, Sockets, TcpState, framed_by, keep_alive, peer_of, state_of
from tidewire.support.log_limit import LogLimit
from tidewire.support.timer_wheel import TimerWheel

__all__ = ("Pinged", "ServerPings", "pings_for", "warn_of_frozen_clients")

logger = logging.getLogger("tidewire")

#: The modules of these servers.
_WITHOUT_PINGS = ("hypercorn", "granian")
#: A ping without data (RFC 6455 section 5.5.2); a server does not mask its frames.
_PING = b"\x89\x00"
#: Seconds in which the server must have had nothing to write, and between two tries.
_QUIET_SECONDS, _RETRY_SECONDS = 0.005, 1.0
#: The kernel counts the time of a pong in ticks; the silence before the ping was longer than this.
_CLOCK_SECONDS = 0.05

_unpinged = LogLimit(3600.0)


class Pinged(Protocol):
    """A link whose client is pinged."""

    @property
    def sent(self) -> int | None:
        """How many messages were handed to the server; None while one is on its way, or the link is not open."""

    def no_pong(self) -> None:
        """The client is not there any more."""


def warn_of_frozen_clients(limits: Limits) -> None:
    """Warn at the start if no frozen client is noticed under this ASGI server; its first client tells the rest."""
    if sys.platform != "linux" and (server := _without_pings(limits)):
        _warn(server, "this is not Linux")


def pings_for(scope: MutableMapping[str, Any], limits: Limits) -> ServerPings | None:
    """Return the pings of a WebSocket, or None where its server sends them or its connection is not known."""
    server = _without_pings(limits)
    if not server:
        return None
    peer = peer_of(scope)
    layer = framed_by(scope)
    if isinstance(peer, str) or layer:
        _warn(server, peer if isinstance(peer, str) else layer)
    return None if isinstance(peer, str) else ServerPings(peer, limits, server, can_write=not layer)


def _without_pings(limits: Limits) -> str:
    return next((name for name in _WITHOUT_PINGS if name in sys.modules), "") if limits.ping_seconds else ""


def _warn(server: str, why: str) -> None:
    if (more := _unpinged.due(why)) is not None:
        logger.warning(
            "a client that freezes stays present under %s, because %s: it waits for no answer to a WebSocket ping, and "
            "tidewire cannot ping there; use `tidewire run` or uvicorn, or let a proxy end TLS, where that matters "
            "(clients of the Centrifuge protocol are pinged anyway)%s",
            server,
            why,
            more,
        )


class ServerPings:
    """Pings one client, if nothing has come from it for `ping_seconds`."""

    __slots__ = ("_asked", "_can_write", "_limits", "_link", "_loop", "_peer", "_server", "timer_slot")

    def __init__(self, peer: Peer, limits: Limits, server: str, *, can_write: bool = True) -> None:
        self._peer = peer
        self._can_write = can_write
        self._limits = limits
        self._server = server
        self._link: Pinged | None = None
        #: When the ping that waits for its answer was written, or 0.
        self._asked = 0.0
        self.timer_slot = 0

    def start(self, link: Pinged) -> None:
        """Ping from now on."""
        self._link = link
        self._loop = asyncio.get_running_loop()
        TimerWheel.of(self._loop).schedule(self, self._limits.ping_seconds * random.uniform(0.5, 1.0))

    def stop(self) -> None:
        """Ping no more."""
        if self._link is not None:
            self._link = None
            TimerWheel.of(self._loop).cancel(self)

    def on_timer(self, now: float) -> float | None:
        """Ping, or judge the client by the bytes that have come since the ping."""
        if self._link is None:
            return None
        found = Sockets.of(self._loop).open(self._peer)
        if found is None:
            _warn(self._server, "a connection's socket is not found")
            return None
        try:
            with found:
                if self._can_write:
                    return self._step(self._link, found, now)
                keep_alive(found, self._limits.ping_seconds, self._limits.pong_seconds)
                return None
        except OSError:
            return None  # the server knows that it has ended

    def _step(self, link: Pinged, found: socket.socket, now: float) -> float | None:
        limits, state = self._limits, state_of(found)
        silence = 0.0 if state.unread else state.since_data
        if self._is_gone(state, silence, now):
            link.no_pong()
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)  # so that the server ends it too
            return None
        self._asked = 0.0
        if silence < limits.ping_seconds - limits.pong_seconds or silence < limits.ping_seconds / 2:
            return limits.ping_seconds - silence
        if state.is_acknowledged and link.sent is not None:
            self._loop.call_later(_QUIET_SECONDS, self._ping, link.sent)
            return limits.pong_seconds
        return _RETRY_SECONDS

    def _is_gone(self, state: TcpState, silence: float, now: float) -> bool:
        if not state.is_acknowledged and state.since_acknowledgement >= self._limits.pong_seconds:
            return True  # our bytes do not arrive
        return self._asked > 0 and silence > now - self._asked + _CLOCK_SECONDS

    def _ping(self, sent: int) -> None:
        """Write a ping, if the server has had nothing to write since the timer looked: frames must not be cut."""
        link = self._link
        found = None if link is None or link.sent != sent else Sockets.of(self._loop).open(self._peer)
        if found is None:
            return
        with found, contextlib.suppress(OSError):
            if state_of(found).is_acknowledged:
                found.send(_PING, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._asked = self._loop.time()
