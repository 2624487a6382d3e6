"""The client's end of one WebSocket, over a pair of connected sockets: real bytes, but no port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import quote

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from tidewire.errors import Disconnect, TidewireError
from tidewire.protocols.close_codes import may_return

__all__ = ("HandshakeRefused", "WireClient")

#: The characters that a browser leaves in a path and its query as they are written.
_WRITTEN = "!#$%&'()*+,/:;=?@[]~"
#: The end of a connection that was lost without a close.
_LOST = Disconnect(1006, "connection lost")
_REASONS = {1005: Disconnect(1005, "")}


class HandshakeRefused(TidewireError):
    """Raised when the application refuses a WebSocket: with its HTTP `status` and the `text` of its answer."""

    def __init__(self, status: int, text: str, path: str = "") -> None:
        place = f" at {path!r}" if path else ""
        super().__init__(f"the handshake{place} was refused with HTTP {status}: {text or '(no text)'}")
        self.status = status
        self.text = text


class WireClient(asyncio.Protocol):
    """Speaks the WebSocket protocol; `on_message` and `on_closed` are called as messages and the end come."""

    def __init__(
        self,
        path: str,
        *,
        headers: Mapping[str, str],
        subprotocols: Iterable[str],
        on_message: Callable[[str | bytes], None],
        on_closed: Callable[[Disconnect], None],
        on_activity: Callable[[], None],
    ) -> None:
        names: Any = list(subprotocols) or None
        uri = parse_uri(f"ws://testserver/{quote(path.removeprefix('/'), safe=_WRITTEN)}")
        self._protocol = ClientProtocol(uri, subprotocols=names, max_size=None)
        self._path = path
        self._headers = headers
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_activity = on_activity
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._is_text = False
        self._is_ended = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has chosen."""
        return self._protocol.subprotocol

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        request = self._protocol.connect()
        for name, value in self._headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._on_activity()
        self._protocol.receive_data(data)
        self._handle()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._handle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_activity()
        self._protocol.receive_eof()
        self._handle()
        if not self.opened.done():
            self.opened.set_exception(HandshakeRefused(0, "the server closed the connection without an answer"))
        elif not self._is_ended and not self.opened.cancelled() and self.opened.exception() is None:
            self._is_ended = True
            self._on_closed(self._ending())

    def _ending(self) -> Disconnect:
        code = self._protocol.close_code
        if code in (None, 1006):
            return _LOST
        return _REASONS.get(code) or Disconnect(code, self._protocol.close_reason or "", may_return(code))

    # Messages that come.

    def _handle(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._answered(event)
            elif isinstance(event, Frame):
                self._take(event)
        self._flush()
        if self._transport is not None and self._protocol.close_expected() and not self._transport.is_closing():
            self._transport.close()

    def _answered(self, response: Response) -> None:
        refusal = self._protocol.handshake_exc
        if self.opened.done():
            return
        if refusal is None:
            self.opened.set_result(None)
        elif isinstance(refusal, InvalidStatus):
            text = (response.body or b"").decode("utf-8", "replace")
            self.opened.set_exception(HandshakeRefused(response.status_code, text, self._path))
        else:
            self.opened.set_exception(refusal)

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text, self._parts = frame.opcode is Opcode.TEXT, []
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if frame.fin:
            data = b"".join(self._parts)
            self._on_message(data.decode() if self._is_text else data)

    def _flush(self) -> None:
        if self._transport is None:
            return
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)

    # Acts of the client.

    def send(self, message: str | bytes) -> None:
        """Send a message: str as text, bytes as binary."""
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self._flush()

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        self._protocol.send_close(code, reason)
        self._flush()

    def abort(self) -> None:
        """End without a close, as when a cable is pulled; `on_closed` is not called."""
        self._is_ended = True
        if self._transport is not None:
            self._transport.abort()

    def freeze(self) -> None:
        """Read nothing, and so answer no ping."""
        if self._transport is not None:
            self._transport.pause_reading()

    def thaw(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()
