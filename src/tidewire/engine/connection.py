"""One client: its user, the link to it, and the messages that it has sent and nobody has received. Passive."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tidewire.errors import ConnectionClosed, Disconnect, RateLimited
from tidewire.limits import Limits
from tidewire.links.base import LOST, Link
from tidewire.messages import IssuedToken, WireMessage
from tidewire.protocols.base import Protocol
from tidewire.protocols.batch import Representation
from tidewire.protocols.close_codes import POLICY, SHUTDOWN, TOO_BIG, check_close_code
from tidewire.support.counters import count_limit
from tidewire.support.key_counts import Counts
from tidewire.support.refusals import note_refusal
from tidewire.support.shared_rate import SharedRate
from tidewire.support.unique_ids import unique_id

__all__ = ("Connection",)

#: Bytes of a message that count as one more message for the rate.
_RATED_BYTES = 4_096
#: The cost of a message in the inbox beside its bytes, so that empty ones count too.
_MESSAGE_COST = 64


class Connection:
    """One client.

    Messages of the client wait in the inbox until `receive` takes it; reading pauses at `limits.inbox_bytes`. A client
    that leaves counts as connected until its messages are taken, `limits.leaving_seconds` at most: its close comes
    behind them, as it was sent. After the end, `disconnect` says why.
    """

    __slots__ = (
        "_allowance",
        "_allowed_at",
        "_inbox",
        "_inbox_size",
        "_is_handling",
        "_leaving",
        "_limits",
        "_loop",
        "_on_closed",
        "_on_drained",
        "_on_left",
        "_on_readable",
        "_refused",
        "_user_rate",
        "_waiter",
        "address",
        "clean",
        "disconnect",
        "ending",
        "failed",
        "id",
        "is_closed",
        "link",
        "opened_at",
        "protocol",
        "receives",
        "representation",
        "token",
        "user",
    )

    def __init__(self, link: Link, protocol: Protocol[Any], *, user: str, address: str, limits: Limits) -> None:
        self.id = unique_id()
        self.user = user
        self.address = address
        self.link = link
        #: By the monotonic clock.
        self.opened_at = time.monotonic()
        self.protocol = protocol
        self.representation = Representation.of(protocol, deflate=link.deflate)
        #: The token that opened it, if it is known.
        self.token: IssuedToken | None = None
        #: Why the connection ended, once it has.
        self.disconnect: Disconnect | None = None
        self.clean = False
        #: Why we end it; set before the closing handshake is over.
        self.ending: Disconnect | None = None
        #: It has ended, or is ending.
        self.is_closed = False
        #: The application's handler raised.
        self.failed = False
        #: Somebody has asked for a message, or for the end.
        self.receives = False
        #: The last message that was taken is being handled, and the next is asked for afterwards.
        self._is_handling = False
        self._on_drained: Callable[[Connection], None] | None = None
        self._on_closed: Callable[[Connection], None] | None = None
        self._on_readable: Callable[[], None] | None = None
        self._on_left: Callable[[], None] | None = None
        self._inbox: deque[str | bytes] | None = None
        self._inbox_size = 0
        #: How the client left while some of its messages were not taken yet, and the timer that ends the wait for them.
        self._leaving: tuple[Disconnect, bool, asyncio.TimerHandle] | None = None
        self._limits = limits
        self._allowance = float(limits.burst)
        self._allowed_at = 0.0
        self._refused = 0
        self._user_rate: SharedRate | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Found at the first wait: to ask for it is a system call.
        self._loop: asyncio.AbstractEventLoop | None = None

    def opened_with(self, token: IssuedToken | None) -> None:
        """Note the token that opened the connection, or that prolongs it."""
        self.token = token

    def attach(self, *, closed: Callable[[Connection], None], drained: Callable[[Connection], None]) -> None:
        """Call `closed` when this connection has ended, and `drained` when its link can take more."""
        self._on_closed, self._on_drained = closed, drained

    def serve(self, readable: Callable[[], None], closed: Callable[[], None] | None = None) -> None:
        """Call `readable` for each message that has come, instead of waking a caller that waits in `receive`.

        `closed` is called at the end, before the node lets the connection go. Neither is kept after that: the callers
        hold this connection, and would outlive it together with it.
        """
        self._on_readable, self._on_left = readable, closed

    def on_left(self, left: Callable[[], None]) -> None:
        """Call `left` at the end, before the node lets the connection go; it is not kept after that."""
        self._on_left = left

    def route(self, link: Link) -> None:
        """Write to another link from now on: one that stands before the client's own, or that again."""
        self.link = link

    def identify(self, user: str) -> None:
        """Set the user of a connection that had none."""
        self.user = user

    # Called by the link (links.base.Listener).

    def message_received(self, message: str | bytes) -> None:
        """Keep a message until somebody receives it; one over the rate is refused with an error."""
        if self.ending is not None:
            return
        limits, size = self._limits, len(message)
        if size * 4 > limits.message_size and _is_longer(message, limits.message_size):
            count_limit("message_size")
            self.refuse("message_size", f"a message of more than {limits.message_size} bytes")
            self.end(TOO_BIG)
            return
        if not self._is_allowed(message):
            return
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(message)
        waiting = self._inbox_size + size + _MESSAGE_COST
        if waiting > limits.inbox_bytes:
            self.link.pause_reading()
            if self._inbox_size <= limits.inbox_bytes:
                count_limit("inbox_bytes")
        self._inbox_size = waiting
        if self._on_readable is not None:
            self._on_readable()
        elif (waiter := self._waiter) is not None and not waiter.done():
            self._waiter = None
            waiter.set_result(None)

    def _is_allowed(self, message: str | bytes) -> bool:
        """Take from the token bucket, for a large message more; after a whole burst over the rate, disconnect."""
        now = time.monotonic()
        limits = self._limits
        allowance = self._allowance + (now - self._allowed_at) * limits.rate
        self._allowance = allowance = allowance if allowance < limits.burst else float(limits.burst)
        self._allowed_at = now
        name, rate = "rate", limits.rate
        if allowance >= 1.0:
            cost = 1 + len(message) // _RATED_BYTES
            self._allowance = allowance - cost
            if self._user_rate is None or self._user_rate.take(cost, now):
                self._refused = 0
                return True
            name, rate = "rate_per_user", self._user_rate.rate
        self._refused += 1
        count_limit(name)
        self.refuse(name, f"more than {rate:g} messages a second")
        if self._refused > limits.burst:
            self.end(POLICY)
        else:
            error = RateLimited(f"too many messages: more than {rate:g} a second ({name}); this one was not handled")
            self.write(self.protocol.encode_refusal(error, message))
        return False

    def share_rate(self, others: Iterable[Connection], counts: Counts) -> None:
        """Share the rate of a user with the user's other connections, as far as `counts` reach."""
        first = next(iter(others), None)
        if first is not None:
            self._user_rate = first._user_rate
        else:
            limits = self._limits
            self._user_rate = SharedRate(counts, f"rate {self.user}", limits.user_rate, limits.user_burst)

    def charge(self, messages: int) -> None:
        """Take more messages from the token bucket: those that came inside of one."""
        self._allowance -= messages

    def shut_down(self) -> None:
        """The server goes down."""
        self.end(SHUTDOWN)

    def drained(self) -> None:
        """The link can take more."""
        if self._on_drained is not None:
            self._on_drained(self)

    def closed(self, disconnect: Disconnect, *, clean: bool) -> None:
        """The link has ended: by the client, behind its messages."""
        if self.disconnect is not None or self._leaving is not None:
            return
        if (self._inbox or self._is_handling) and self.ending is None and (clean or disconnect.code == LOST.code):
            overdue = asyncio.get_running_loop().call_later(self._limits.leaving_seconds, self._overdue)
            self._leaving = disconnect, clean, overdue
        else:
            self._end(disconnect, clean)

    def _overdue(self) -> None:
        count_limit("leaving_seconds")
        self._leave()

    def _leave(self) -> None:
        """Take the client's close, if it waits."""
        if self._leaving is not None:
            (disconnect, clean, overdue), self._leaving = self._leaving, None
            overdue.cancel()
            self._end(disconnect, clean)

    def _end(self, disconnect: Disconnect, clean: bool) -> None:
        self.disconnect, self.is_closed = self.ending or disconnect, True
        self.clean = clean
        left, self._on_left, self._on_readable = self._on_left, None, None
        self._wake()
        if left is not None:
            left()
        if self._on_closed is not None:
            self._on_closed(self)

    # Used by the layers above.

    @property
    def has_messages(self) -> bool:
        """A message waits to be received."""
        return bool(self._inbox)

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for the next message."""
        return self._waiter is not None and not self._waiter.done()

    def receive_nowait(self, *, handles: bool = False) -> str | bytes | None:
        """Take the next message, or None when none is waiting: then a client that has left is gone.

        With `handles`, it is being handled until the next is asked for.
        """
        inbox = self._inbox
        if not inbox:
            self._is_handling = False
            if self._leaving is not None:
                self._leave()
            return None
        if handles:
            self.receives = self._is_handling = True
        message = inbox.popleft()
        was_over = self._inbox_size > self._limits.inbox_bytes
        self._inbox_size -= len(message) + _MESSAGE_COST
        if was_over and self._inbox_size <= self._limits.inbox_bytes:
            self.link.resume_reading()
        if not inbox:
            self._inbox = None
        return message

    async def receive(self) -> str | bytes:
        """Wait for the next message; raises ConnectionClosed after the last one, as soon as either side ends it."""
        self.receives = True
        while (message := self.receive_nowait()) is None:
            await self.readable()
        return message

    def readable(self) -> Awaitable[object]:
        """Wait for a message, where none has come; raises ConnectionClosed at once when none will come.

        The awaited object is a future: a wait costs no coroutine.
        """
        self.receives = True
        reason = self.disconnect or self.ending
        if reason is not None:
            raise ConnectionClosed(reason)
        return self._wait()

    async def wait_closed(self) -> Disconnect:
        """Wait until the connection has ended, and return why; messages of the client are thrown away meanwhile."""
        self.receives = True
        while True:
            while self.receive_nowait() is not None:
                pass
            if self.disconnect is not None:
                return self.disconnect
            await self._wait()

    def _wait(self) -> Awaitable[object]:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            return asyncio.wait([waiter])  # neither ends with the other's cancellation
        self.link.uncork()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def refuse(self, kind: str, why: str, channel: str = "") -> None:
        """Note that something of this client is refused; the caller tells the client."""
        note_refusal(kind, why, user=self.user, address=self.address, connection=self.id, channel=channel)

    def write(self, *messages: WireMessage) -> None:
        """Write messages that belong to no channel, behind all that was written before."""
        if self.disconnect is None:
            for message in messages:
                self.link.send(message)

    def fail(self, disconnect: Disconnect | None = None) -> None:
        """Note that the handler raised: announcements for that case are published. End with a code, if one is given."""
        self.failed = True
        if disconnect is not None:
            self.end(disconnect)

    def end(self, disconnect: Disconnect) -> None:
        """Begin to end the connection; harmless when it has ended. Raises ConfigurationError for an impossible code."""
        self._leave()
        if self.is_closed:
            return
        code, reason = self.protocol.close_code(disconnect)
        check_close_code(code)
        self.ending, self.is_closed = disconnect, True
        self.link.close(code, reason)
        self._wake()


def _is_longer(message: str | bytes, size: int) -> bool:
    """Return whether a message has more bytes than `size`; a character of text has up to four."""
    if len(message) > size:
        return True
    return isinstance(message, str) and len(message.encode(errors="replace")) > size
