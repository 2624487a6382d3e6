"""The transport's protocol of one connection, which passes every event to the phase that the connection is in.

A connection goes through phases: its first request (first_request.py), the opening handshake of a WebSocket
(opening_handshake.py), the link (websocket.py). One protocol serves all of them, because a transport that is given
another one stops and starts its reading, which costs four system calls.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast
from typing import Protocol as TypingProtocol

from uvicorn.server import ServerState

__all__ = ("Phase", "PhasedProtocol")


class Phase(TypingProtocol):
    """The part of our code that has a connection now."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Read the bytes that the client has sent."""

    def eof_received(self) -> None:
        """Take note that the client sends nothing more."""

    def pause_writing(self) -> None:
        """Take note that the client takes less than is written."""

    def resume_writing(self) -> None:
        """Take note that the client has taken enough."""

    def connection_lost(self) -> None:
        """Take note that the connection has ended; no other event comes."""

    def drain(self) -> None:
        """End the connection, because its server stops."""


class PhasedProtocol(asyncio.Protocol):
    """One connection: passes the calls of the transport and of uvicorn to its phase, which sets the next one."""

    __slots__ = ("_server", "phase")

    #: Set when the connection is made.
    phase: Phase

    def __init__(self, server_state: ServerState) -> None:
        self._server = server_state

    def begin(self, phase: Phase) -> None:
        """Begin the first phase of a connection that was made."""
        self.phase = phase
        self._server.connections.add(cast(Any, self))

    def end(self) -> Phase:
        """End with the connection, or leave it to another protocol; return the last phase."""
        self._server.connections.discard(cast(Any, self))
        phase = self.phase
        del self.phase  # it may refer to this: left alone, both would wait for the garbage collector
        return phase

    def connection_lost(self, exc: Exception | None) -> None:
        self.end().connection_lost()

    def data_received(self, data: bytes) -> None:
        self.phase.data_received(data)

    def eof_received(self) -> None:
        self.phase.eof_received()

    def pause_writing(self) -> None:
        self.phase.pause_writing()

    def resume_writing(self) -> None:
        self.phase.resume_writing()

    def shutdown(self) -> None:
        """Drain: uvicorn calls it for every connection before the lifespan ends."""
        self.phase.drain()
