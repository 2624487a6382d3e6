"""The contract of a link: it sends bytes to one client, and receives messages from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol as TypingProtocol

from tidewire.errors import Disconnect
from tidewire.links.bytes_ahead import BytesAhead
from tidewire.messages import WireMessage
from tidewire.protocols.batch import Batch

__all__ = ("LOST", "Link", "Listener")

#: The connection ended without a close frame: a code that is never sent (RFC 6455 section 7.1.5).
LOST = Disconnect(1006, "connection lost")


class Listener(TypingProtocol):
    """Receives messages of a client, in order, and then `closed` exactly once; a link calls it on the event loop."""

    def message_received(self, message: str | bytes) -> None:
        """Handle a whole message: str for a text message, bytes for a binary one."""

    def refuse(self, kind: str, why: str) -> None:
        """Note that the link ends because the client reached a limit of this name."""

    def shut_down(self) -> None:
        """End the link with the code that the protocol has for it: the server shuts down."""

    def drained(self) -> None:
        """Write on: the link was paused, and is so no longer."""

    def closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        """Handle the end of the link. `clean` is whether close frames were exchanged."""


class Link(ABC):
    """The connection to one client. Only the coroutines wait; no method raises when the client has gone."""

    __slots__ = ()

    #: Whether the link compresses: it takes batches of the deflated representation.
    deflate: bool = False
    #: Whether more than the transport's high-water mark waits to be sent.
    paused: bool = False
    #: Whether nothing can be written any more.
    is_closed: bool = False

    @abstractmethod
    def listen(self, listener: Listener) -> None:
        """Give messages to a listener from now on.

        Those that came before are given to it first, before this returns or soon after.
        """

    def cork(self) -> None:
        """Hold the handshake's answer back until something is written, or until `uncork`; called before `accept`.

        A client that has its answer is then subscribed already, and misses nothing from that moment on. A link that
        cannot hold it back does nothing.
        """
        return

    def uncork(self) -> None:
        """Send the handshake's answer, if it is held back. May be called at any time."""
        return

    def stop_pings(self) -> None:
        """Send no pings, because the protocol has its own. A link that sends none does nothing."""
        return

    @abstractmethod
    async def keep_open(self) -> None:
        """Keep the connection open although the application's coroutine has nothing left to do (a served protocol).

        A link that needs the ASGI call returns when the connection has ended. One that does not need it returns at
        once, and the return of the ASGI call no longer closes the connection.
        """

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Queue a batch behind all that was written before; it is sent as a whole and in order, or not at all.

        It never fails and never waits, and does nothing after the end. The caller judges the backlog first.
        """

    def write_later(self, batch: Batch) -> None:
        """Do as `write` does; a link for which a write is dear may join those of one turn of the loop."""
        self.write(batch)

    def send(self, message: WireMessage) -> None:
        """Write one message as `write_later` does."""
        self.write_later(Batch([message], deflate=self.deflate))

    def flush(self) -> None:
        """Write the messages that `write_later` keeps for the end of the turn; a link that keeps none does nothing."""
        return

    @abstractmethod
    def backlog(self) -> tuple[int, int]:
        """Return the bytes and (an upper bound of) the messages that are not yet given to the operating system."""

    def bytes_ahead(self) -> BytesAhead | None:
        """Return the bytes before a ping that is written now; None where there are none, or nobody tells."""
        return None

    @abstractmethod
    async def wait_drained(self) -> None:
        """Wait until the link is not paused; return at once when it is not, or when it is closed."""

    def may_wait(self) -> None:
        """Note that a message of this client could have waited: while many come, a link may read them a moment later.

        A link that reads everything at once does nothing.
        """
        return

    @abstractmethod
    def pause_reading(self) -> None:
        """Read no more until `resume_reading`; messages that were received already may still be given."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read again."""

    @abstractmethod
    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake behind the queued messages; a peer that does not answer is aborted in time."""

    @abstractmethod
    def abort(self) -> None:
        """End at once, without the closing handshake; queued messages are lost."""
