"""The ASGI side of a WebSocket: an application's `receive` and `send`, until a listener takes the messages over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from enum import Enum, auto
from types import CoroutineType
from typing import Any, Protocol

from tidewire.errors import TidewireError
from tidewire.links.foreign_clients import answer_unknown
from tidewire.support.refusals import note_handshake

__all__ = ("AsgiApplication", "ClientGone", "Opened", "Opening", "UnexpectedEvent")

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Call = asyncio.Future[None]

logger = logging.getLogger("uvicorn.error")
#: Bytes that a message in the queue counts beside its own, so that empty ones count too.
_EVENT_COST = 64


class ClientGone(TidewireError, OSError):
    """Raised by `send` after the connection has ended; ASGI asks for an OSError."""


class UnexpectedEvent(TidewireError, RuntimeError):
    """Raised by `send` for an event that this state of the connection does not know."""


class Opening(Protocol):
    """The opening handshake of the application's WebSocket."""

    def accept(self, headers: Iterable[tuple[bytes, bytes]], subprotocol: str | None) -> None:
        """Answer the handshake with 101. Raises ClientGone."""

    def deny(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with a refusal."""


class Opened(Protocol):
    """The application's WebSocket after its handshake."""

    @property
    def paused(self) -> bool:
        """Whether more than the high-water mark waits to be sent."""

    async def wait_drained(self) -> None:
        """Wait until it is not paused, or closed."""

    def send_message(self, data: bytes, *, binary: bool, is_last: bool) -> None:
        """Write one message, at once if it `is_last`: no other is to be expected now. Raises ClientGone."""

    def flush(self) -> None:
        """Write the messages that wait for the end of the turn."""

    def pause_reading(self) -> None:
        """Read no more from the client."""

    def resume_reading(self) -> None:
        """Read again."""

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake."""

    def application_returned(self, *, failed: bool) -> None:
        """The ASGI call has ended."""


class _State(Enum):
    CONNECTING = auto()
    DENYING = auto()
    OPEN = auto()
    CLOSED = auto()  #: by the application
    GONE = auto()  #: by the client, or by the connection


_OPEN = _State.OPEN  # as a global, for every message: an attribute of an enumeration is dear


class AsgiApplication:
    """One call of an ASGI application, for one WebSocket: `receive` and `send` are the application's side of it.

    `put`, `take` and `disconnected` are the side of the connection.
    """

    __slots__ = (
        "_denial",
        "_inbox",
        "_is_answering",
        "_is_full",
        "_is_joining",
        "_limit",
        "_loop",
        "_opened",
        "_opening",
        "_scope",
        "_size",
        "_state",
        "_waiter",
    )

    def __init__(self, opening: Opening, opened: Opened, inbox_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._opening = opening
        self._loop = loop
        self._opened = opened
        self._limit = inbox_bytes
        self._state = _State.CONNECTING
        #: Messages, and the events at both ends.
        self._inbox: list[str | bytes | Event] = [{"type": "websocket.connect"}]
        self._size = 0
        #: More than the limit waits, and reading is paused.
        self._is_full = False
        #: The application has received a message, and sent nothing since.
        self._is_answering = False
        #: The application has sent messages that wait for the end of the turn.
        self._is_joining = False
        self._waiter: asyncio.Future[None] | None = None
        #: The request of the handshake, until it is answered.
        self._scope: MutableMapping[str, Any] = {}
        self._denial: tuple[int, list[tuple[bytes, bytes]], bytes] = (0, [], b"")

    def start(self, application: Application, scope: dict[str, Any]) -> Call:
        """Begin the application's call, and report its return to the connection.

        Its coroutine is the task's own: no function of ours stands between the loop and each of its steps.
        """
        call: Call
        self._scope = scope
        try:
            begun = application(scope, self.receive, self.send)
            if type(begun) is CoroutineType:
                call = self._loop.create_task(begun)
            else:
                call = asyncio.ensure_future(begun, loop=self._loop)
        except Exception as error:  # raised before there was anything to await
            call = self._loop.create_task(_raise(error))
        call.add_done_callback(self._returned)
        return call

    def _returned(self, call: Call) -> None:
        failed = call.cancelled()
        error = None if failed else call.exception()
        if error is not None and not isinstance(error, ClientGone):
            failed = True
            logger.error("Exception in ASGI application", exc_info=error)
        elif error is None and not failed:
            result: object = call.result()
            if self._state in (_State.CONNECTING, _State.DENYING):
                logger.error("ASGI callable returned without completing handshake.")
            elif result is not None:
                logger.error("ASGI callable should return None, but returned '%s'.", result)
        self._opened.application_returned(failed=failed)

    async def receive(self) -> Event:
        """Return the next event (ASGI `receive`); after the end always the disconnect."""
        if self._is_joining and not self._inbox:
            self._is_joining = False
            self._opened.flush()  # the application has nothing more to say
        while not self._inbox:
            if self._waiter is not None:
                await asyncio.wait([self._waiter])  # neither ends with the other's cancellation
                continue
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        found = self._inbox[0]
        if isinstance(found, str | bytes):
            del self._inbox[0]
            self._is_answering = True
            self._size -= _EVENT_COST + len(found)
            if self._is_full and self._size <= self._limit // 2:
                self._is_full = False
                self._opened.resume_reading()
            return {"type": "websocket.receive", "text" if isinstance(found, str) else "bytes": found}
        if found["type"] != "websocket.disconnect":
            del self._inbox[0]
        return found

    async def send(self, event: Event) -> None:
        """Handle one event (ASGI `send`). Waits while the connection is paused. Raises ClientGone after its end."""
        if self._opened.paused:
            await self._opened.wait_drained()
        if self._state is _OPEN:
            self._send_open(event)
            return
        match self._state:
            case _State.CONNECTING:
                self._send_connecting(event)
            case _State.DENYING:
                self._send_denial(event)
            case _State.GONE if event["type"] == "websocket.close":
                return  # an exception's handler closes a WebSocket that the client has closed
            case _State.GONE:
                raise ClientGone("the client has gone; nothing can be sent any more")
            case _State.CLOSED:
                raise UnexpectedEvent(f"unexpected ASGI event {event['type']!r} after the connection was closed")

    def _send_open(self, event: Event) -> None:
        kind = event["type"]
        if kind == "websocket.send":
            is_last = self._is_answering and not self._inbox
            self._is_answering = False
            self._is_joining |= not is_last
            data = event.get("bytes")
            if data is not None:
                self._opened.send_message(data, binary=True, is_last=is_last)
            else:
                self._opened.send_message((event.get("text") or "").encode(), binary=False, is_last=is_last)
        elif kind == "websocket.close":
            code, reason = event.get("code", 1000), event.get("reason") or ""
            self._end(_State.CLOSED, code, reason)
            self._opened.close(code, reason)
        else:
            raise UnexpectedEvent(f"expected ASGI event 'websocket.send' or 'websocket.close', but got {kind!r}")

    def _send_connecting(self, event: Event) -> None:
        kind = event["type"]
        if kind == "websocket.accept":
            self._opening.accept(event.get("headers") or (), event.get("subprotocol"))
            self._state, self._scope = _State.OPEN, {}
        elif kind == "websocket.close":
            self._end(_State.CLOSED, 1006, "")
            code, reason = event.get("code", 1000), event.get("reason") or ""
            answer = (answer_unknown(self._scope) if code == 1000 else None) or (403, (), b"")
            self._deny(*answer, why=f"code {code} {reason}".rstrip())
        elif kind == "websocket.http.response.start":
            status = event["status"]
            if not 200 <= status < 600:
                raise UnexpectedEvent(f"status {status!r} cannot refuse a handshake; write one from 200 to 599")
            self._denial = (status, list(event.get("headers") or ()), b"")
            self._state = _State.DENYING
        else:
            raise UnexpectedEvent(
                "expected ASGI event 'websocket.accept', 'websocket.close' or 'websocket.http.response.start', "
                f"but got {kind!r}"
            )

    def _send_denial(self, event: Event) -> None:
        kind = event["type"]
        if kind != "websocket.http.response.body":
            raise UnexpectedEvent(f"expected ASGI event 'websocket.http.response.body', but got {kind!r}")
        status, headers, body = self._denial
        body += event.get("body", b"")
        self._denial = (status, headers, body)
        if not event.get("more_body", False):
            self._end(_State.CLOSED, 1006, "")
            self._deny(status, headers, body, why=body.decode(errors="replace"))

    def _deny(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, why: str) -> None:
        """Refuse the handshake in the application's words, and note that, unless a layer of ours has noted why."""
        note_handshake(self._scope, f"handshake_{status}", f"the application refuses with {status}: {why}")
        self._opening.deny(status, headers, body)

    def put(self, message: str | bytes) -> None:
        """Queue a message for `receive`; over the limit the connection reads no more."""
        self._inbox.append(message)
        self._size += _EVENT_COST + len(message)
        if self._size > self._limit:
            self._is_full = True
            self._opened.pause_reading()
        if self._waiter is not None:
            self._wake()

    def take(self) -> list[str | bytes]:
        """Return the queued messages, and forget them: a listener takes over."""
        if not self._inbox:
            return []
        received = [one for one in self._inbox if isinstance(one, str | bytes)]
        self._inbox = [one for one in self._inbox if not isinstance(one, str | bytes)]
        self._size = 0
        return received

    def disconnected(self, code: int, reason: str) -> None:
        """Queue the disconnect for `receive`: the connection has ended."""
        if self._state not in (_State.CLOSED, _State.GONE):
            self._end(_State.GONE, code, reason)

    def _end(self, state: _State, code: int, reason: str) -> None:
        self._state = state
        self._inbox.append({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _raise(error: Exception) -> None:
    raise error
