"""The contract of a link: how bytes reach one client, and come from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol as TypingProtocol

from tidewire.errors import Disconnect
from tidewire.protocols.batch import Batch

__all__ = ("LOST", "Link", "Listener")

#: The connection ended without a close frame: a code that is never sent (RFC 6455 section 7.1.5).
LOST = Disconnect(1006, "connection lost")


class Listener(TypingProtocol):
    """What a link tells, on the event loop, one call at a time: messages in order, then `closed` exactly once."""

    def message_received(self, message: str | bytes) -> None:
        """A whole message has come: str from a text message, bytes from a binary one."""

    def shut_down(self) -> None:
        """The server goes down: the listener ends the link, with the word that its dialect has for that."""

    def drained(self) -> None:
        """The link was paused, and has now passed on enough to take more."""

    def closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        """The link has ended: by whom and why; `clean` says that a close frame was received or answered."""


class Link(ABC):
    """How bytes reach one client. Nothing here waits but `wait_drained`; nothing raises when the client has gone."""

    __slots__ = ()

    #: The link compresses: it takes batches of the deflated representation.
    deflate: bool = False
    #: More than the transport's high-water mark waits to be sent.
    paused: bool = False
    #: Nothing can be written any more.
    is_closed: bool = False

    @abstractmethod
    def listen(self, listener: Listener) -> None:
        """Say who is told; messages that came before are told first, before this returns or soon after."""

    def cork(self) -> None:
        """Hold the handshake's answer back until something is written, or `uncork`; called before it is given.

        So a client that has its answer follows what it was subscribed to first. A link that cannot do it does nothing.
        """
        return

    def uncork(self) -> None:
        """Send the handshake's answer, if it is held back; harmless at any time."""
        return

    def quiet(self) -> None:
        """Send no pings of the link's own: the protocol has its own. A link that sends none does nothing."""
        return

    @abstractmethod
    async def hold(self) -> None:
        """Keep the connection although the application's coroutine has nothing left to do (a served protocol).

        A link that needs the ASGI call returns when the connection has ended; one that does not returns at once, and
        the return of the ASGI call no longer closes the connection.
        """

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Queue a batch after all that was written before; it is sent as a whole and in order, or not at all.

        Never fails and never waits: after the end it does nothing. It is the caller who judges the backlog first.
        """

    @abstractmethod
    def backlog(self) -> tuple[int, int]:
        """Return what is queued and has not been handed to the operating system: bytes, messages (an upper bound)."""

    @abstractmethod
    async def wait_drained(self) -> None:
        """Wait until the link is no longer paused; returns at once when it is not, or when it is closed."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more until `resume_reading`; what was already received may still be told."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read again."""

    @abstractmethod
    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake behind what is queued; a peer that does not answer is aborted in time."""

    @abstractmethod
    def abort(self) -> None:
        """End at once, without the closing handshake; what is queued is lost."""
